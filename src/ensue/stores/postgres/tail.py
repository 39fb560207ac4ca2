"""`TailedOutbox`: positions are places in the server's log. Modes `wal` (rows of a table) and `messages` (no table).

A step inserts rows as in mode `poll`, or emits logical messages and writes no table at all. Either way the log tells of
them in commit order, `tail_loop.py` gives them positions in that order, and what is read here has one. Both kinds are
taken in both modes, so that steps that began before a switch lose nothing. See ADR 19.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ensue.errors import StoreUnavailable, UsageError
from ensue.message import OutboxRecord
from ensue.stores.postgres import tail_setup, tail_switch
from ensue.stores.postgres.tail_log import encode_records
from ensue.stores.postgres.tail_loop import Access, Tail
from ensue.stores.postgres.tail_read import STAMPED_MAX, Now, Reader, Window
from ensue.stores.postgres.tail_slot import SlotBusy, SlotLost
from ensue.stores.postgres.tail_stamp import TABLES
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import Tools
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

# Emitted only if this is still the store's mode: else nobody would read it.
_EMIT = (
    "SELECT pg_logical_emit_message(true, ?, content) FROM ensue_meta, unnest(?::bytea[]) content WHERE outbox_mode = ?"
)
_NUDGE = "SELECT pg_logical_emit_message(true, 'ensue.nudge', '')"
_HEADS = "SELECT topic, partition_no, position FROM ensue_outbox_head WHERE position > ?"
_LOCK = "SELECT last_position FROM ensue_counter FOR UPDATE"
_EPOCH = "UPDATE ensue_counter SET epoch = ?, published_from = ?, last_position = ?"
_EPOCH_RELAY = "UPDATE ensue_relay SET position = ?, changes = changes + 1"
# confirmed: what another process, which reads the slot, has kept.
_CONFIRMED = (
    "SELECT pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::bigint FROM pg_replication_slots s, ensue_tail t "
    "WHERE s.slot_name = t.slot"
)


class TailedOutbox:
    """The `Outbox` of modes `wal` and `messages`. access: its own way to the server, past any pooler."""

    def __init__(self, tools: Tools, mode: Literal["wal", "messages"], access: Access) -> None:
        self.mode: str = mode
        self._tools = tools
        self._access = access
        self._text = tools.dialect.text
        self._reader = Reader(self._text)
        self._tail = Tail(access, tools.wakeup.changed, self._lost)
        self._epoch = ""
        self._looked = (0, 0)
        self._opened = False

    # --- its life

    async def open(self) -> None:
        try:
            await tail_setup.ensure(self._access, self._tools.service, self.mode)
        except SlotLost as error:
            raise UsageError(str(error), **error.values) from error
        self._opened = True

    async def close(self) -> None:
        self._opened = False
        await self._tail.close()

    async def prepare(self, link: Link) -> None:
        for statement in TABLES:
            await link.script(statement)

    async def _lost(self, error: SlotLost) -> None:
        """Make a new slot where nothing is lost by that, else raise what an operator should know."""
        await tail_setup.ensure(self._access, self._tools.service, self.mode)

    # --- the step's side

    async def add(self, link: Link, records: Sequence[OutboxRecord], now: float) -> None:
        if self.mode == "wal":
            await self._tools.dialect.add(link, records, now)
            return
        contents = encode_records(records)
        if not contents:
            return
        if len(await link.fetch(self._text(_EMIT), self._access.prefix, contents, self.mode)) != len(contents):
            raise StoreUnavailable(
                f"{self._tools.place}: the outbox is not read as {self.mode!r} any more: another process switched it. "
                "Restart this one with the same ?outbox= as the others"
            )

    def committed(self) -> None:
        """Nothing to tell: the log does."""

    # --- the relay's side

    async def after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        self._tools.wakeup.looked()
        self._tail.start()
        kept_lsn = self._tail.kept_lsn  # before looking, or what is kept meanwhile seems to have been looked at
        now = await self._now()
        self._looked = (now.last_position, now.changes)
        position = max(position, now.published_from)
        found = await self._found(now, position, limit)
        if len(found) < limit and kept_lsn < now.flushed_lsn:
            # More has committed by now, perhaps.
            await self._read_through(
                now.flushed_lsn, LOOK_S, lambda: len(self._tail.recent.after(position, limit)) == limit
            )
            now = await self._now()
            self._looked = (now.last_position, now.changes)
            found = await self._found(now, max(position, now.published_from), limit)
        return found

    async def _found(self, now: Now, position: int, limit: int) -> list[OutboxRecord]:
        found = self._tail.recent.after(position, limit)
        if found:
            return found  # what has come since `now`, too
        while position < now.last_position and len(found) < limit:
            window = await self._look(position, now.last_position, limit - len(found))
            found += window.records
            if window.through <= position:
                break  # the next one cannot be seen yet
            position = window.through
            if not window.records:  # over what was pruned in one leap
                upcoming = await self._next(position)
                position = max(position, now.last_position if upcoming is None else upcoming - STAMPED_MAX)
        return found

    async def of(self, topic: str, partition: int, after: int, through: int, limit: int) -> Sequence[OutboxRecord]:
        found: list[OutboxRecord] = []
        now = await self._now()
        after, through = max(after, now.published_from), min(through, now.last_position)
        while after < through and len(found) < limit:
            upcoming = await self._next(after)
            if upcoming is None:
                break
            window = await self._look(after, through, limit - len(found), (topic, partition))
            found += window.records
            if window.through <= after:
                if not found:  # an empty answer would mean that the outbox has it no more
                    raise StoreUnavailable(
                        f"{self._tools.place}: the record of {topic}/{partition} after position {after} cannot be seen "
                        "yet (its transaction waits for a standby?)"
                    )
                break
            after = window.through
            await asyncio.sleep(0)  # a rare partition of a long outbox takes many windows: let others in
        return found

    async def _next(self, after: int) -> int | None:
        return await self._tools.desk.read(lambda link: self._reader.next(link, after))

    async def _look(self, after: int, through: int, limit: int, place: tuple[str, int] | None = None) -> Window:
        async def look(link: Link) -> Window:
            now = await self._reader.now(link)
            return await self._reader.window(link, now, after, through, limit, place)

        return await self._tools.desk.read(look)

    async def heads(self) -> Mapping[tuple[str, int], int]:
        await self._complete()
        now = await self._now()
        rows = await self._tools.desk.read(lambda link: link.fetch(self._text(_HEADS), now.published_from))
        return {(str(topic), int(partition)): int(position) for topic, partition, position in rows}

    async def get(self, position: int) -> OutboxRecord | None:
        now = await self._now()
        if not now.published_from < position <= now.last_position:
            return None
        window = await self._look(position - 1, position, 1)
        return window.records[0] if window.records else None

    async def wait(self, timeout_s: float) -> None:
        self._tail.start()
        if self._tail.reading and not isinstance(self._tools.news, Polling):
            await self._tools.news.wait(timeout_s)
            return
        # Nobody tells us of records, which another process reads, or of decisions: look now and then.
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while (left := until - loop.time()) > 0:
            if await self._tools.wakeup.wait(min(LOOK_AGAIN_S, left)):
                return
            now = await self._tools.desk.read(self._reader.now)
            if (now.last_position, now.changes) != self._looked:
                return

    async def prune(self, before_s: float, through: int, limit: int) -> int:
        self._tail.recent.clear()
        return await self._tools.desk.run(lambda link: self._reader.prune(link, before_s, through, limit))

    # --- epochs and operators

    async def begin_epoch(self, link: Link, epoch: str, published_through: int) -> None:
        """Start a new source after `published_through`: its first record of each partition follows on nothing (which
        reading sees to: a `previous` of an epoch that has ended counts as none)."""
        if self._opened:
            await self._complete()  # `published_through` means the same as it did to who asked
        [(last,)] = await link.fetch(_LOCK)
        await link.execute(self._text(_EPOCH), epoch, published_through, max(int(last), published_through))
        await link.execute(self._text(_EPOCH_RELAY), published_through)

    async def unsent(self, link: Link, *, exactly: bool = True) -> int:
        return await tail_switch.unsent(link, self._access, exactly=exactly)

    async def hindrances(self, link: Link) -> Sequence[str]:
        lines = await tail_switch.hindrances(link, KEPT_BYTES)
        error = self._tail.error
        if error is not None and not isinstance(error, SlotBusy):
            lines.append(f"the tail of the log does not run: {error}")
        return lines

    # --- being up to date

    async def _now(self) -> Now:
        now = await self._tools.desk.read(self._reader.now)
        self._tools.identify(now.epoch, now.published_from)
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
                f"{self._tools.place}: the log has not been read up to now within {COMPLETE_S:g} s"
                + (f": {self._tail.error}" if self._tail.error else "")
            )

    async def _read_through(self, lsn: int, patience_s: float, enough: Callable[[], bool]) -> bool:
        """Wait until the log is read up to `lsn` here or elsewhere, or `enough` says so; return False after patience_s.

        Raises UsageError or SlotLost when it is not read at all and an operator must act.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        nudged = False
        while not enough():
            if self._tail.kept_through(lsn):
                return True
            error = self._tail.error
            if isinstance(error, UsageError | SlotLost):
                raise error
            if loop.time() >= begin + patience_s:
                return False
            if error is None and not nudged and loop.time() >= begin + NUDGE_S:
                # The log may be flushed up to the middle of an entry, of someone who does not wait for the flush. A
                # commit that waits makes the server go on at once, rather than at the next turn of its own writer.
                nudged = True
                await self._tools.desk.run(lambda link: link.fetch(_NUDGE))
            elsewhere = isinstance(error, SlotBusy) and not self._tail.reading
            if elsewhere and await self._tools.desk.read(_confirmed) >= lsn:
                return True
            await self._tail.progress(NUDGE_S)
        return True


async def _confirmed(link: Link) -> int:
    rows = await link.fetch(_CONFIRMED)
    return int(rows[0][0] or 0) if rows else 0
