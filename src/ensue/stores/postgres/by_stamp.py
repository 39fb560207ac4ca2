"""What the outboxes of both modes share: rows in a table, read by positions that are kept in `ensue_stamp`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.identity import check_ends
from ensue.stores.postgres.stamps import STAMPED_MAX, Now, Reader, Window
from ensue.stores.postgres.unsent import unsent
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import OutboxContext

HEADS = "SELECT topic, partition_no, position FROM ensue_outbox_head WHERE position > ?"
LOCK = "SELECT last_position, epoch FROM ensue_counter FOR UPDATE"
_EPOCH = "UPDATE ensue_counter SET epoch = ?, published_from = ?, last_position = ?"


class Switched(StoreUnavailable):
    """Another process has switched the store to another mode: this one's must give no positions. attributes: mode."""

    def __init__(self, mode: str) -> None:
        super().__init__(
            f"the outbox is read as {mode!r} by now: another process switched it. Restart this one with ?outbox={mode}",
            mode=mode,
        )


class ByStamp:
    """reader: asks what this mode wants to know."""

    def __init__(self, context: OutboxContext, reader: Reader) -> None:
        self._context = context
        self._reader = reader
        self._text = context.dialect.text

    async def add(self, link: Link, records: Sequence[OutboxRecord], now: float) -> None:
        await self._context.dialect.add(link, records, now)

    async def unsent(self, link: Link, mode: str) -> int:
        return await unsent(link, mode)

    async def _now(self) -> Now:
        now = await self._context.relay_pool.read(self._reader.now)
        self._context.current.note(now.epoch, now.published_from)
        return now

    async def _next(self, after: int) -> int | None:
        return await self._context.relay_pool.read(lambda link: self._reader.next(link, after))

    async def _look(self, after: int, through: int, limit: int, place: tuple[str, int] | None = None) -> Window:
        async def look(link: Link) -> Window:
            now = await self._reader.now(link)
            return await self._reader.window(link, now, after, through, limit, place)

        return await self._context.relay_pool.read(look)

    async def _stored(self, position: int, through: int, limit: int) -> list[OutboxRecord]:
        """Up to `limit` records after `position`, up to `through`; fewer where the next one cannot be seen yet."""
        found: list[OutboxRecord] = []
        while position < through and len(found) < limit:
            window = await self._look(position, through, limit - len(found))
            found += window.records
            if window.through <= position:
                break
            position = window.through
            if not window.records:  # over what was pruned in one leap
                upcoming = await self._next(position)
                position = max(position, through if upcoming is None else upcoming - STAMPED_MAX)
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
                        f"{self._context.place}: the record of {topic}/{partition} after position {after} cannot "
                        "be seen yet (its transaction waits for a standby?)"
                    )
                break
            after = window.through
            await asyncio.sleep(0)  # a rare partition of a long outbox takes many windows: let others in
        return found

    async def _stored_heads(self) -> Mapping[tuple[str, int], int]:
        """Of the present epoch; what is older follows on nothing any more."""
        now = await self._now()
        rows = await self._context.relay_pool.read(lambda link: link.fetch(self._text(HEADS), now.published_from))
        return {(str(topic), int(partition)): int(position) for topic, partition, position in rows}

    async def prune(self, before_s: float, through: int, limit: int) -> int:
        return await self._context.relay_pool.run(lambda link: self._reader.prune(link, before_s, through, limit))

    async def _write_epoch(self, link: Link, epoch: str, published_through: int, ends: str) -> None:
        """Start a new source after `published_through`: its first record of each partition follows on nothing (which
        reading sees to: a `previous` of an epoch that has ended counts as none)."""
        [(last, found)] = await link.fetch(LOCK)
        check_ends(self._context.service, found, ends)
        await link.execute(self._text(_EPOCH), epoch, published_through, max(int(last), published_through))
