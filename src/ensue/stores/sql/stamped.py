"""Positions by stamping: records are inserted without one, and whoever reads for the relay gives them theirs.

A sequence's value is taken before the commit, so `WHERE id > last` loses what commits late; and transaction ids can
swap two events of one entity. What holds: ids grow in commit order within one key, because the entity's row lock is
taken before the insert; and what commits later is seen later. So in one short transaction, under the lock of the
counter row, the records that are visible and have no position get the next ones in id order. Only when that has
committed are they returned: a position that was returned once is final, and none appears late. See ADR 18.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ensue.message import OutboxRecord
from ensue.stores.identity import Identity, check_ends
from ensue.stores.sql.dialect import OUTBOX
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import OutboxContext
from ensue.stores.sql.schema import RELAYED

# The record on which the counter stands comes along: a relay that has sent everything reads on from its last record,
# and would need a second look for nothing else.
LOOK = (
    "SELECT c.last_position, c.epoch, c.published_from, "
    f"EXISTS (SELECT 1 FROM ensue_outbox WHERE position IS NULL), o.{OUTBOX.replace(', ', ', o.')} "
    "FROM ensue_counter c LEFT JOIN ensue_outbox o ON o.position = c.last_position"
)
LOCK = "SELECT last_position, epoch, published_from FROM ensue_counter FOR UPDATE"
AFTER = f"SELECT {OUTBOX} FROM ensue_outbox WHERE position > ? ORDER BY position LIMIT ?"
OF = (
    f"SELECT {OUTBOX} FROM ensue_outbox "
    "WHERE position > ? AND position <= ? AND topic = ? AND partition_no = ? ORDER BY position LIMIT ?"
)
NEXT = "SELECT min(position) FROM ensue_outbox WHERE position > ?"
YOUNGEST = "SELECT max(id) FROM ensue_outbox WHERE position IS NULL"
OLDER = "SELECT EXISTS (SELECT 1 FROM ensue_outbox WHERE position IS NULL AND id <= ?)"
HEADS = "SELECT topic, partition_no, position FROM ensue_outbox_head"
UNSENT = (
    "SELECT (SELECT count(*) FROM ensue_outbox WHERE position IS NULL) + (SELECT count(*) FROM ensue_outbox "
    f"WHERE position > greatest({RELAYED}, (SELECT published_from FROM ensue_counter)))"
)
_EPOCH = "UPDATE ensue_counter SET epoch = ?, published_from = ?, last_position = ?"
_EPOCH_CHAIN = (
    "UPDATE ensue_outbox SET previous = 0 WHERE position IN (SELECT first FROM (SELECT min(position) AS first "
    "FROM ensue_outbox WHERE position > ? GROUP BY topic, partition_no) AS firsts)"
)
_EPOCH_HEADS = (
    "INSERT INTO ensue_outbox_head SELECT topic, partition_no, max(position) FROM ensue_outbox "
    "WHERE position > ? GROUP BY topic, partition_no"
)
#: Positions looked at in one window of `of`: a few milliseconds at most.
WINDOW = 10_000
#: Records stamped at once when an epoch begins.
_CHUNK = 5_000


class StampedOutbox:
    """The `Outbox` of mode `poll` where rows carry their positions: a table, read by positions that reading gives.

    stamp: gives positions after `last` to up to `limit` records that have none, in id order, and returns them in that
    order; called under the lock of the counter row; waits for nobody's uncommitted record.
    """

    mode = "poll"

    def __init__(
        self, context: OutboxContext, stamp: Callable[[Link, int, int], Awaitable[list[OutboxRecord]]]
    ) -> None:
        self._context = context
        self._give = stamp
        self._text = context.dialect.text

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def prepare(self, link: Link) -> None: ...

    async def add(self, link: Link, records: Sequence[OutboxRecord], now: float) -> None:
        await self._context.dialect.add(link, records, now)

    def committed(self) -> None:
        self._context.notifier.announce()

    async def after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        context = self._context
        context.wakeup.looked()
        last, unstamped, identity, found = await context.relay_pool.read(self._look)
        position = max(position, identity.published_from)
        if last > position + 1:
            found = await context.relay_pool.read(lambda link: self._after(link, position, limit))
        elif last <= position:
            found = []
        if not unstamped or len(found) >= limit:
            return found
        stamped = await context.relay_pool.run(lambda link: self._stamp(link, last, limit - len(found)))
        if stamped is None:  # another relay was quicker
            return await context.relay_pool.read(lambda link: self._after(link, position, limit))
        return found + stamped

    async def _look(self, link: Link) -> tuple[int, bool, Identity, list[OutboxRecord]]:
        """Return the counter, whether there are records without a position, and the record at the counter."""
        [(last, epoch, published_from, unstamped, *own)] = await link.fetch(LOOK)
        identity = self._context.current.note(str(epoch), int(published_from))
        self._context.notifier.saw(int(last))
        return int(last), bool(unstamped), identity, [] if own[0] is None else [OutboxRecord(*own)]

    async def _stamp(self, link: Link, through: int, limit: int) -> list[OutboxRecord] | None:
        """Stamp and return records; None: some beyond `through` are stamped already, by another relay."""
        [(last, epoch, published_from)] = await link.fetch(LOCK)
        self._context.current.note(str(epoch), int(published_from))
        if last > through:
            return None
        return await self._give(link, int(last), limit)

    async def _after(self, link: Link, position: int, limit: int) -> list[OutboxRecord]:
        identity = await self._context.current.refresh(link)
        rows = await link.fetch(self._text(AFTER), max(position, identity.published_from), limit)
        return [OutboxRecord(*row) for row in rows]

    async def of(self, topic: str, partition: int, after: int, through: int, limit: int) -> Sequence[OutboxRecord]:
        """In windows of bounded cost: an index by partition would cost every event, and resends are rare."""
        relay_pool = self._context.relay_pool
        found: list[OutboxRecord] = []
        after = max(after, (await relay_pool.read(self._context.current.refresh)).published_from)
        while after < through and len(found) < limit:
            window = (after, through, topic, partition, limit - len(found))
            records, after = await relay_pool.read(lambda link, window=window: self._window(link, *window))  # type: ignore[misc]
            found += records
            await asyncio.sleep(0)  # a rare partition of a long outbox takes many windows: let others in
        return found

    async def _window(
        self, link: Link, after: int, through: int, topic: str, partition: int, limit: int
    ) -> tuple[list[OutboxRecord], int]:
        """Return what one window holds, and how far was looked."""
        [(first,)] = await link.fetch(self._text(NEXT), after)  # over what was pruned in one leap
        if first is None or first > through:
            return [], through
        end = min(int(first) - 1 + WINDOW, through)
        rows = await link.fetch(self._text(OF), int(first) - 1, end, topic, partition, limit)
        return [OutboxRecord(*row) for row in rows], end

    async def heads(self) -> Mapping[tuple[str, int], int]:
        """Of what is stamped; what is committed is stamped first, so that a relay that starts knows all of it."""
        context = self._context

        async def stamp_all(link: Link) -> None:
            [(last, _, _)] = await link.fetch(LOCK)
            await self._stamp_all(link, int(last))

        _, unstamped, _, _ = await context.relay_pool.read(self._look)
        if unstamped:
            await context.relay_pool.run(stamp_all)
        rows = await context.relay_pool.read(lambda link: link.fetch(HEADS))
        return {(str(topic), int(partition)): int(position) for topic, partition, position in rows}

    async def _stamp_all(self, link: Link, last: int) -> int:
        """Stamp what is committed by now, return the last position. What is committed meanwhile has time: others wait.

        Under steady commits there is always something new, and the counter's lock, held here, keeps relays out.
        """
        [(through,)] = await link.fetch(YOUNGEST)
        left = through is not None
        while left:
            records = await self._give(link, last, _CHUNK)
            if records:
                last = records[-1].position
            left = len(records) == _CHUNK
            if left:
                [(left,)] = await link.fetch(self._text(OLDER), through)
        return last

    async def wait(self, timeout_s: float) -> None:
        await self._context.notifier.wait(timeout_s)

    async def prune(self, before_s: float, through: int, limit: int) -> int:
        prune = self._context.dialect.prune
        return await self._context.relay_pool.run(
            lambda link: prune(link, "ensue_outbox", "position", "written_at", before_s, limit, through)
        )

    async def begin_epoch(self, link: Link, epoch: str, published_through: int, ends: str) -> None:
        """Start a new source after `published_through`: its first record of each partition follows on nothing.

        What is committed is stamped first, so that `published_through` means the same as it did to who asked.
        """
        [(last, found, _)] = await link.fetch(LOCK)
        check_ends(self._context.service, found, ends)
        last = await self._stamp_all(link, int(last))
        await link.execute(self._text(_EPOCH), epoch, published_through, max(last, published_through))
        await link.execute(self._text(_EPOCH_CHAIN), published_through)
        await link.script("DELETE FROM ensue_outbox_head")
        await link.execute(self._text(_EPOCH_HEADS), published_through)

    async def unsent(self, link: Link, mode: str) -> int:
        [(count,)] = await link.fetch(UNSENT)
        return int(count)

    async def warnings(self, link: Link) -> Sequence[str]:
        return ()
