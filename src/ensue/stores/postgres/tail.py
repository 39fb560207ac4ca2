"""`TailedOutbox`, of mode `wal`: positions are a count of the outbox's rows in the order of the server's log.

A step inserts rows as in mode `poll`. The log tells of them in commit order, `tail_loop.py` gives them positions in
that order, and what is read here has one. See ADR 19.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from ensue.errors import StoreUnavailable, UsageError
from ensue.message import OutboxRecord
from ensue.stores.postgres import left_slot
from ensue.stores.postgres.by_stamp import ByStamp, Switched
from ensue.stores.postgres.stamps import FLUSHED, Now, Reader
from ensue.stores.postgres.tail_access import Access
from ensue.stores.postgres.tail_loop import Tail
from ensue.stores.postgres.tail_setup import ensure
from ensue.stores.postgres.tail_slot import SlotBusy, warnings
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import OutboxContext
from ensue.stores.sql.wakeup import Polling

#: How long a look waits for the log to be read up to the moment of the look. A relay goes on with what is there.
LOOK_S = 2.0
#: The same for what must know everything: where a relay begins, where an epoch ends.
COMPLETE_S = 30.0
#: After this long, the server is made to flush its log.
NUDGE_S = 0.01
#: Between two looks while this process does not read the slot, or cannot be told of operators' decisions.
LOOK_AGAIN_S = 0.1
#: A slot that keeps more of the log than this is worth a line.
KEPT_BYTES = 64 << 20

_NUDGE = "SELECT pg_logical_emit_message(true, 'ensue.nudge', '')"
# confirmed: what another process, which reads the slot, has kept.
_CONFIRMED = (
    "SELECT pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::bigint FROM pg_replication_slots s, ensue_tail t "
    "WHERE s.slot_name = t.slot"
)


class TailedOutbox(ByStamp):
    """The `Outbox` of mode `wal`. access: its own way to the server, past any pooler."""

    mode = "wal"

    def __init__(self, context: OutboxContext, access: Access) -> None:
        super().__init__(context, Reader(context.dialect.text, FLUSHED))
        self._access = access
        self._tail = Tail(access, context.wakeup.changed, self._ensure)
        self._epoch = ""
        self._looked = 0
        self._opened = False

    # --- its life

    async def open(self) -> None:
        await left_slot.drop(self._context.relay_pool)
        await self._ensure()
        self._opened = True

    async def _ensure(self) -> None:
        await ensure(self._access, self._context.service)

    async def close(self) -> None:
        self._opened = False
        await self._tail.close()

    async def prepare(self, link: Link) -> None: ...

    # --- the step's side

    def committed(self) -> None:
        """Nothing to tell: the log does."""

    # --- the relay's side

    async def after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        self._context.wakeup.looked()
        self._tail.start()
        kept_lsn = self._tail.kept_lsn  # before looking, or what is kept meanwhile seems to have been looked at
        now = await self._now()
        self._looked = now.last_position
        if now.last_position < position:  # the server went back: what is held is of a life that it does not know
            self._tail.recent.clear()
        position = max(position, now.published_from)
        found = await self._found(now, position, limit)
        if len(found) < limit and kept_lsn < now.flushed_lsn:
            # More has committed by now, perhaps.
            await self._read_through(
                now.flushed_lsn, LOOK_S, lambda: len(self._tail.recent.after(position, limit)) == limit
            )
            now = await self._now()
            self._looked = now.last_position
            found = await self._found(now, max(position, now.published_from), limit)
        return found

    async def _found(self, now: Now, position: int, limit: int) -> list[OutboxRecord]:
        found = self._tail.recent.after(position, limit)
        if found:
            return found  # what has come since `now`, too
        return await self._stored(position, now.last_position, limit)

    async def heads(self) -> Mapping[tuple[str, int], int]:
        await self._complete()
        return await self._stored_heads()

    async def wait(self, timeout_s: float) -> None:
        self._tail.start()
        if self._tail.reading and not isinstance(self._context.notifier, Polling):
            await self._context.notifier.wait(timeout_s)
            return
        # Nobody tells us of records, which another process reads: look now and then.
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while (left := until - loop.time()) > 0:
            if await self._context.wakeup.wait(min(LOOK_AGAIN_S, left)):
                return
            now = await self._context.relay_pool.read(self._reader.now)
            if now.last_position != self._looked:
                return

    async def prune(self, before_s: float, through: int, limit: int) -> int:
        self._tail.recent.clear()
        return await super().prune(before_s, through, limit)

    # --- epochs and operators

    async def begin_epoch(self, link: Link, epoch: str, published_through: int, ends: str) -> None:
        if self._opened:
            await self._complete()  # `published_through` means the same as it did to who asked
        await self._write_epoch(link, epoch, published_through, ends)

    async def warnings(self, link: Link) -> Sequence[str]:
        lines = await warnings(link, KEPT_BYTES)
        error = self._tail.error
        if error is not None and not isinstance(error, SlotBusy):
            lines.append(f"the tail of the log does not run: {error}")
        return lines

    # --- being up to date

    async def _now(self) -> Now:
        now = await super()._now()
        if now.epoch != self._epoch:
            self._epoch = now.epoch
            self._tail.recent.clear()  # what was held may follow on records of an epoch that has ended
        return now

    async def _complete(self) -> None:
        """Return when everything that has committed by now has its position. Raises StoreUnavailable when it lasts."""
        self._tail.start()
        now = await self._now()
        if not await self._read_through(now.flushed_lsn, COMPLETE_S, lambda: False):
            raise StoreUnavailable(
                f"{self._context.place}: the log has not been read up to now within {COMPLETE_S:g} s"
                + (f": {self._tail.error}" if self._tail.error else "")
            )

    async def _read_through(self, lsn: int, patience_s: float, enough: Callable[[], bool]) -> bool:
        """Wait until the log is read up to `lsn` here or elsewhere, or `enough` says so; return False after patience_s.

        Raises UsageError or Switched when it is not read at all and an operator must act.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        nudged = False
        while not enough():
            if self._tail.kept_through(lsn):
                return True
            error = self._tail.error
            if isinstance(error, UsageError | Switched):
                raise error
            if loop.time() >= begin + patience_s:
                return False
            if error is None and not nudged and loop.time() >= begin + NUDGE_S:
                # The log may be flushed up to the middle of an entry, of someone who does not wait for the flush. A
                # commit that waits makes the server go on at once, rather than at the next turn of its own writer.
                nudged = True
                await self._context.relay_pool.run(lambda link: link.fetch(_NUDGE))
            elsewhere = isinstance(error, SlotBusy) and not self._tail.reading
            if elsewhere and await self._context.relay_pool.read(_confirmed) >= lsn:
                return True
            await self._tail.progress(NUDGE_S)
        return True


async def _confirmed(link: Link) -> int:
    rows = await link.fetch(_CONFIRMED)
    return int(rows[0][0] or 0) if rows else 0
