"""The loop that reads the log and gives positions, in the background, for as long as the store is open.

It does not wait for the relay: while a broker is down, entries get their positions and the slot moves on, so the
server need not keep its log for them. One connection at a time can read the slot; the others read what it has kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import psycopg

from ensue.errors import EnsueError, RetryableError, StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.tail_log import Entry, LogReader
from ensue.stores.postgres.tail_read import STAMPED_MAX
from ensue.stores.postgres.tail_recent import Recent
from ensue.stores.postgres.tail_slot import Rows, SlotBusy, SlotLost, failure
from ensue.stores.postgres.tail_stamp import Overtaken, Stamper, insert_lsn

log = logging.getLogger("ensue.tail")

#: Entries that get their positions by one statement.
BATCH = STAMPED_MAX
#: What is read ahead before the server is made to wait.
AHEAD_BYTES = 16 << 20
#: How often the server hears what it may forget: when there is something new to say, and else.
FEEDBACK_S = 0.2
HEARTBEAT_S = 5.0
#: How long somebody may not have asked before the slot is left to another process that wants it.
IDLE_S = 5.0
BUSY_RETRY_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach the database.

    replication: connection string of the server itself, not of a pooler. connect: an autocommit connection to it,
    with Ensue's schema on its path. schema: empty, the server's default. prefix: of the service's logical messages.
    """

    replication: str
    schema: str
    connect: Callable[[], Awaitable[Rows]]
    prefix: str

    @property
    def publication(self) -> str:
        """Of what is inserted into the outbox; a schema that is not the default has one of its own."""
        return f"ensue_outbox_{self.schema}" if self.schema else "ensue_outbox"


class Tail:
    """changed: called when records have got their positions. lost: called when the slot is lost; makes a new one, or
    raises for an operator to act. Begins with `start`, ends with `close`."""

    def __init__(
        self, access: Access, changed: Callable[[], None], lost: Callable[[SlotLost], Awaitable[None]]
    ) -> None:
        self._access = access
        self._changed = changed
        self._lost = lost
        self._task: asyncio.Task[None] | None = None
        self._progress: asyncio.Future[None] | None = None
        self._asked_at = 0.0
        self._session: _Session | None = None
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

    async def restart(self) -> None:
        await self.close()
        self.error = None
        self.recent.clear()

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
        pause = 0.05
        while True:
            try:
                await self._read()
                pause = 0.05
            except SlotBusy as error:
                self.error, pause = error, BUSY_RETRY_S
            except SlotLost as error:
                try:
                    await self._lost(error)
                    continue
                except EnsueError as failed:
                    self.error = failed  # whoever asks is told; tried again: an operator may have acted
            except RetryableError as failed:
                log.warning("tail of the log: %s; again in %.2f s", failed, pause)
                self.error = failed
            except EnsueError as final:
                self.error = final
                self._happened()
                return
            self._happened()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

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
                while not await session.turn():
                    pass
            except psycopg.Error as error:
                raise StoreUnavailable(f"the log cannot be read: {str(error).strip()}") from error
            finally:
                self._session = None
                self.recent.clear()  # the next one may be of a server that went back

    async def _open(self, opened: AsyncExitStack) -> _Session:
        own = await self._access.connect()
        opened.push_async_callback(own.close)
        stamper = Stamper(own)
        state = await stamper.load()
        if not state.slot:
            raise SlotLost("there is no replication slot yet", slot="")
        replication = await ReplicationConnection.connect(self._access.replication)
        opened.push_async_callback(replication.close)
        reader = LogReader("ensue_outbox", self._access.prefix)
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
        return _Session(self, own, stamper, replication, reader)

    def _kept(self, records: Sequence[OutboxRecord], size: int) -> None:
        if records:
            self.recent.add(records, size)
            self._changed()
        self._happened()

    def _asked_within(self, seconds: float) -> bool:
        return asyncio.get_running_loop().time() - self._asked_at < seconds


class _Session:
    """One connection's reading of the slot. kept_lsn: everything that committed before it has its position."""

    def __init__(
        self, tail: Tail, own: Rows, stamper: Stamper, replication: ReplicationConnection, reader: LogReader
    ) -> None:
        self._tail = tail
        self._own = own
        self._stamper = stamper
        self._replication = replication
        self._reader = reader
        self.kept_lsn = 0
        self._confirmed_lsn = 0
        #: What may be forgotten once the log is flushed up to the second place: then our stamps are.
        self._unproved: tuple[int, int] | None = None
        self._feedback_at = 0.0
        self._asked_lsn = -1

    def ask(self) -> None:
        """Ask the server how far it has sent; once for each answer."""
        if self._asked_lsn != self._reader.complete_lsn:
            self._asked_lsn = self._reader.complete_lsn
            self._replication.send_feedback(self._confirmed_lsn, reply=True)

    async def turn(self) -> bool:
        """Keep what is there, or wait for something. Returns whether the slot is to be left to another process."""
        reader = self._reader
        reader.progress.clear()
        if reader.error is not None:
            raise reader.error
        before = reader.pending_bytes
        entries, through = reader.take(BATCH)
        if entries:
            kept = await self._keep(entries)
            self.kept_lsn = max(self.kept_lsn, through)
            self._tail._kept(kept, before - reader.pending_bytes if reader.pending_bytes < before else before)
        elif through > self.kept_lsn:
            self.kept_lsn = through
            self._feedback_at = min(self._feedback_at, asyncio.get_running_loop().time() + FEEDBACK_S)
            self._tail._kept((), 0)
        if reader.pending_bytes > AHEAD_BYTES:
            self._replication.pause()
        else:
            self._replication.resume()
        now = asyncio.get_running_loop().time()
        if reader.reply_wanted or now >= self._feedback_at:
            reader.reply_wanted = False
            await self._feedback()
            self._feedback_at = now + (HEARTBEAT_S if self._confirmed_lsn == self.kept_lsn else FEEDBACK_S)
            if await self._wanted():
                return True
        if not reader.pending:
            try:
                async with asyncio.timeout(max(self._feedback_at - now, 0.01)):
                    await reader.progress.wait()
            except TimeoutError:
                pass  # time to tell the server
        return False

    async def _keep(self, entries: Sequence[Entry]) -> list[OutboxRecord]:
        for _ in range(10):
            try:
                return await self._stamper.keep(entries)
            except Overtaken:  # an epoch began; or another connection that reads the slot, dead but not yet noticed
                slot = self._stamper.state.slot
                if (await self._stamper.load()).slot != slot:
                    raise StoreUnavailable(
                        f"slot {slot} was replaced by {self._stamper.state.slot or 'none'}"
                    ) from None
        raise StoreUnavailable("the counter of positions moves all the time: another process gives positions, too")

    async def _feedback(self) -> None:
        """Let the server forget what is kept, once what we kept is flushed.

        The server sends nothing that it has not flushed. So when it has sent its log up to where it stood after our
        last stamp, that stamp has been flushed as well.
        """
        if self._unproved is not None and self._reader.complete_lsn >= self._unproved[1]:
            self._confirmed_lsn = self._unproved[0]
            self._unproved = None
        self._replication.send_feedback(self._confirmed_lsn)
        if self._unproved is None and self.kept_lsn > self._confirmed_lsn:
            kept = self.kept_lsn
            self._unproved = (kept, await insert_lsn(self._own))

    async def _wanted(self) -> bool:
        """Whether another process waits for the slot, and nobody asks this one."""
        if self._tail._asked_within(IDLE_S):
            return False
        cursor = await self._own.execute("SELECT wanted_at > now() - interval '5 s' FROM ensue_tail")
        return await cursor.fetchone() == (True,)
