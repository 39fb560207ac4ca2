"""One connection's reading of the slot: entries get their positions, and the server hears what it may forget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.stamps import STAMPED_MAX
from ensue.stores.postgres.tail_access import Rows
from ensue.stores.postgres.tail_log import Entry, LogReader
from ensue.stores.postgres.tail_stamp import Overtaken, Stamper, insert_lsn

#: What is read ahead before the server is made to wait.
AHEAD_BYTES = 16 << 20
#: How often the server hears what it may forget: when there is something new to say, and else.
FEEDBACK_S = 0.2
HEARTBEAT_S = 5.0


class Session:
    """kept_lsn: everything that committed before it has its position.

    own: for SQL. kept: called with records that have got their positions, and their size; without any when the log has
    been read further. asked: whether somebody here has wanted to know of records of late.
    """

    def __init__(
        self,
        own: Rows,
        stamper: Stamper,
        replication: ReplicationConnection,
        reader: LogReader,
        *,
        kept: Callable[[Sequence[OutboxRecord], int], None],
        asked: Callable[[], bool],
    ) -> None:
        self._own = own
        self._stamper = stamper
        self._replication = replication
        self._reader = reader
        self._kept = kept
        self._asked = asked
        self.kept_lsn = 0
        self._confirmed_lsn = 0
        #: What may be forgotten once the log is flushed up to the second place: then our stamps are.
        self._unproved: tuple[int, int] | None = None
        self._feedback_at = 0.0

    def ask(self) -> None:
        """Ask the server how far it has sent."""
        self._replication.send_feedback(self._confirmed_lsn, reply=True)

    async def turn(self) -> bool:
        """Keep what is there, or wait for something. Returns whether the slot is to be left to another process."""
        reader = self._reader
        reader.progress.clear()
        if reader.error is not None:
            raise reader.error
        before = reader.pending_bytes
        entries, through = reader.take(STAMPED_MAX)
        if entries:
            kept = await self._keep(entries)
            self.kept_lsn = max(self.kept_lsn, through)
            self._kept(kept, before - reader.pending_bytes if reader.pending_bytes < before else before)
        elif through > self.kept_lsn:
            self.kept_lsn = through
            self._feedback_at = min(self._feedback_at, asyncio.get_running_loop().time() + FEEDBACK_S)
            self._kept((), 0)
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
                self._check(slot, (await self._stamper.load()).slot)
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
        cursor = await self._own.execute("SELECT slot, wanted_at > now() - interval '5 s' FROM ensue_tail")
        [(slot, wanted)] = await cursor.fetchall()
        self._check(self._stamper.state.slot, str(slot))
        return bool(wanted) and not self._asked()

    def _check(self, ours: str, slot: str) -> None:
        """Raise StoreUnavailable when the store has another slot by now, or is read in another mode."""
        if slot != ours:
            raise StoreUnavailable(f"slot {ours} was replaced by {slot or 'none'}")
