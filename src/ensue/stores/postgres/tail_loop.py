"""The loop that reads the log and gives positions, in the background, for as long as the store is open.

It does not wait for the relay: while a broker is down, entries get their positions and the slot moves on, so the
server need not keep its log for them. One connection at a time can read the slot; the others read what it has kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import psycopg

from ensue.errors import EnsueError, RetryableError, StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.tail_access import Access
from ensue.stores.postgres.tail_log import LogReader
from ensue.stores.postgres.tail_recent import Recent
from ensue.stores.postgres.tail_session import Session
from ensue.stores.postgres.tail_slot import SlotBusy, SlotLost, failure
from ensue.stores.postgres.tail_stamp import Stamper
from ensue.texts import logger

log = logger("ensue.tail")

#: How long somebody may not have asked before the slot is left to another process that wants it.
IDLE_S = 5.0
BUSY_RETRY_S = 0.5
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 5.0


class Tail:
    """Begins with `start`, ends with `close`.

    changed: called when records have got their positions. ensure: called when the slot is lost; makes a new one.
    """

    def __init__(self, access: Access, changed: Callable[[], None], ensure: Callable[[], Awaitable[None]]) -> None:
        self._access = access
        self._changed = changed
        self._ensure = ensure
        self._task: asyncio.Task[None] | None = None
        self._progress: asyncio.Future[None] | None = None
        self._asked_at = 0.0
        self._session: Session | None = None
        self._pause_s = _PAUSE_FIRST_S
        self.recent = Recent()
        #: Why nothing is read; None: it is, or has not been tried.
        self.error: EnsueError | None = None

    @property
    def reading(self) -> bool:
        """Whether this process is the one that reads the slot."""
        return self._session is not None

    def start(self) -> None:
        """Begin, or go on; safe to repeat. To be called whenever the relay's side asks for something."""
        self._asked_at = asyncio.get_running_loop().time()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="ensue tail")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # --- for those who wait

    async def progress(self, timeout_s: float) -> None:
        """Return when something happened in the loop, or after timeout_s."""
        if self._progress is None or self._progress.done():
            self._progress = asyncio.get_running_loop().create_future()
        waiting = self._progress
        await asyncio.wait([waiting], timeout=timeout_s)

    @property
    def kept_lsn(self) -> int:
        """Every entry that committed before this place in the log has its position. 0: not known here."""
        return 0 if self._session is None else self._session.kept_lsn

    def kept_through(self, lsn: int) -> bool:
        """Whether every entry that committed before this place in the log has its position.

        While it has not, the server is asked how far it has sent.
        """
        session = self._session
        if session is None:
            return False
        if session.kept_lsn >= lsn:
            return True
        session.ask()
        return False

    def _happened(self) -> None:
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)

    # --- the loop

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except SlotBusy as error:
                self.error, self._pause_s = error, BUSY_RETRY_S
            except SlotLost:
                try:
                    await self._ensure()
                except EnsueError as failed:
                    self.error = failed  # whoever asks is told; tried again: an operator may have acted
            except RetryableError as failed:
                log.warning("tail of the log: %s; again in %.2f s", failed, self._pause_s)
                self.error = failed
            except EnsueError as final:
                self.error = final
                self._happened()
                return
            self._happened()
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, _PAUSE_MAX_S)

    async def _read(self) -> None:
        async with AsyncExitStack() as opened:
            try:
                session = await self._open(opened)
            except psycopg.Error as error:
                raise StoreUnavailable(f"the log cannot be read: {str(error).strip()}") from error
            self.recent.clear()
            self.error = None
            self._session = session
            try:
                done = False
                while not done:
                    kept = session.kept_lsn
                    done = await session.turn()
                    if session.kept_lsn > kept:
                        self._pause_s = _PAUSE_FIRST_S  # what ends this one is not what ended the one before
            except psycopg.Error as error:
                raise StoreUnavailable(f"the log cannot be read: {str(error).strip()}") from error
            finally:
                self._session = None
                self.recent.clear()  # the next one may be of a server that went back

    async def _open(self, opened: AsyncExitStack) -> Session:
        own = await self._access.connect()
        opened.push_async_callback(own.close)
        stamper = Stamper(own)
        state = await stamper.load()
        if not state.slot:
            raise SlotLost("there is no replication slot yet", slot="")
        replication = await ReplicationConnection.connect(self._access.conninfo)
        opened.push_async_callback(replication.close)
        reader = LogReader("ensue_outbox")
        try:
            await replication.start(
                state.slot, self._access.publication, received=reader.received, broken=reader.broken
            )
        except psycopg.Error as error:
            ours = failure(error, state.slot)
            if isinstance(ours, SlotBusy):
                await own.execute("UPDATE ensue_tail SET wanted_at = now() WHERE wanted_at < now() - interval '2 s'")
            raise ours from error
        await stamper.load()  # whoever read the slot until now may have kept more meanwhile
        return Session(own, stamper, replication, reader, kept=self._kept, asked=self._asked)

    def _kept(self, records: Sequence[OutboxRecord], size: int) -> None:
        if records:
            self.recent.add(records, size)
            self._changed()
        self._happened()

    def _asked(self) -> bool:
        return asyncio.get_running_loop().time() - self._asked_at < IDLE_S
