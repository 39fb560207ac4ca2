"""Reading an outbox by position: a stamp names the rows of up to 2000 positions. Whoever gave them, poll or wal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ensue.message import OutboxRecord
from ensue.stores.numbering import begin_after
from ensue.stores.sql.link import Link

#: Positions looked at in one window.
WINDOW = 5000
#: Rows that one stamp names at most.
STAMPED_MAX = 2000
#: Stamps looked at in one go.
STAMPS = 200
#: The same for pruning.
OLDEST = 50

# By their keys: of tables that were never analyzed the planner expects a thousand rows each, and compiles the query.
_NOW = (
    "SELECT c.epoch, c.published_from, c.last_position, p.pruned, {flushed} "
    "FROM ensue_counter c, ensue_polled p WHERE c.one = 1 AND p.one = 1"
)
#: How far the server's log is on disk; for who reads it.
FLUSHED = "pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint"
# settled: every transaction that had ended when the stamp was written is visible by now. (The log tells of a commit
# a moment before others see its rows, or long before, with synchronous replication.)
STAMPS_OF = (
    "SELECT last, ids, previous, pg_snapshot_xmin(pg_current_snapshot())::text::bigint > xid "
    f"FROM ensue_stamp WHERE last > ? AND last < ? AND last - cardinality(ids) < ? ORDER BY last LIMIT {STAMPS}"
)
BY_ID = "SELECT id, topic, partition_no, record_key, envelope, data FROM ensue_outbox WHERE id = ANY(?)"
_PRESENT = "SELECT id FROM ensue_outbox WHERE id = ANY(?)"
_OF_PLACE = " AND topic = ? AND partition_no = ?"
NEXT = "SELECT min(last) FROM ensue_stamp WHERE last > ?"

# The oldest ones, up to a position; the caller takes the beginning that is old enough.
# Of the next ones, those that hold the first so many ids.
OLDEST_STAMPS = (
    "SELECT last, ids, settled FROM (SELECT last, ids, "
    "pg_snapshot_xmin(pg_current_snapshot())::text::bigint > xid AS settled, "
    "sum(cardinality(ids)) OVER (ORDER BY last) - cardinality(ids) AS before "
    f"FROM (SELECT * FROM ensue_stamp WHERE last > ? ORDER BY last LIMIT {OLDEST}) oldest) counted "
    "WHERE before <= ? ORDER BY last"
)
WRITTEN = "SELECT id, written_at FROM ensue_outbox WHERE id = ANY(?)"
DELETE = "DELETE FROM ensue_outbox WHERE id = ANY(?)"
_DELETE_STAMPS = "DELETE FROM ensue_stamp WHERE last <= ?"
_PRUNED = "UPDATE ensue_polled SET pruned = ? WHERE pruned < ?"


class Now(NamedTuple):
    """The store's state at the moment of a look. pruned: rows up to this position may be gone.

    flushed_lsn: 0 for who did not ask.
    """

    epoch: str
    published_from: int
    last_position: int
    pruned: int
    flushed_lsn: int


class Window(NamedTuple):
    """Records found, and the position through which there are no others (yet)."""

    records: list[OutboxRecord]
    through: int


class Reader:
    """text: makes `?` the driver's placeholders. flushed: SQL for how far the log is on disk, where that matters."""

    def __init__(self, text: Callable[[str], str], flushed: str = "0::bigint") -> None:
        self._now = _NOW.format(flushed=flushed)
        self._stamps, self._by_id, self._present = map(text, (STAMPS_OF, BY_ID, _PRESENT))
        self._by_id_of_place = text(BY_ID + _OF_PLACE)
        self._next = text(NEXT)
        self._written, self._delete = text(WRITTEN), text(DELETE)
        self._oldest_stamps = text(OLDEST_STAMPS)
        self._delete_stamps, self._pruned = text(_DELETE_STAMPS), text(_PRUNED)

    async def now(self, link: Link) -> Now:
        [row] = await link.fetch(self._now)
        return Now(*row)

    async def window(
        self, link: Link, now: Now, after: int, through: int, limit: int, place: tuple[str, int] | None = None
    ) -> Window:
        """Return up to `limit` records in (after, through], of one partition or of all, looking at a bounded number."""
        after = max(after, now.published_from)
        through = min(through, after + (limit if place is None else WINDOW))
        positions: dict[int, tuple[int, int]] = {}
        unsettled: list[int] = []
        stamps = await link.fetch(self._stamps, after, through + STAMPED_MAX, through)
        for last, ids, previous, settled in stamps:
            first = last - len(ids) + 1
            for at in range(max(after + 1 - first, 0), min(len(ids), through + 1 - first)):
                positions[ids[at]] = (first + at, previous[at])
                if not settled:
                    unsettled.append(ids[at])
            if place is None and len(positions) >= limit:
                break
        if stamps and (len(stamps) == STAMPS or (place is None and len(positions) >= limit)):
            through = min(last, through)  # there may be more
        if unsettled:
            present = {id_ for (id_,) in await link.fetch(self._present, unsettled)}
            hidden = [positions[id_][0] for id_ in unsettled if id_ not in present and positions[id_][0] > now.pruned]
            through = min([through, *(position - 1 for position in hidden)])
        found: list[OutboxRecord] = []
        if positions:
            ids = list(positions)
            query = link.fetch(self._by_id, ids) if place is None else link.fetch(self._by_id_of_place, ids, *place)
            for id_, topic, number, key, envelope, data in await query:
                position, follows = positions[id_]
                if position <= through:
                    found.append(OutboxRecord(topic, number, key, envelope, data, position, follows))
        found.sort(key=_position)
        begin_after(found, now.published_from)
        if len(found) >= limit:
            del found[limit:]
            through = found[-1].position
        return Window(found, through)

    async def prune(self, link: Link, before_s: float, through: int, limit: int) -> int:
        """Delete up to `limit` of the oldest rows, up to the first that is not old enough; inside a transaction."""
        oldest = await self._oldest_stamped(link, before_s, through, limit)
        pruned = 0
        old: list[int] = []
        for position, id_, written_at in oldest:
            if position > through or written_at >= before_s or len(old) == limit:
                break
            pruned = position
            if written_at:
                old.append(id_)
        if pruned:
            await link.execute(self._pruned, pruned, pruned)
            await link.execute(self._delete_stamps, pruned)
        return await link.execute(self._delete, old) if old else 0

    async def _oldest_stamped(
        self, link: Link, before_s: float, through: int, limit: int
    ) -> list[tuple[int, int, float]]:
        """(position, id, written_at) of the rows with the lowest positions, up to one that stays; 0.0: it is gone."""
        now = await self.now(link)
        found: list[tuple[int, int, float]] = []
        after = 0
        while True:
            stamps = await link.fetch(self._oldest_stamps, after, limit - len(found))
            rows = await link.fetch(self._written, [id_ for _, ids, _ in stamps for id_ in ids]) if stamps else []
            written: dict[int, float] = {int(row[0]): row[1] for row in rows}
            for last, ids, settled in stamps:
                for position, id_ in enumerate(ids, last - len(ids) + 1):
                    written_at = written.get(id_, 0.0)
                    if not written_at and not settled and position > now.pruned:
                        return found  # a row that cannot be seen yet
                    found.append((position, id_, written_at))
                    if position > through or written_at >= before_s or len(found) > limit:
                        return found
            if len(stamps) < OLDEST:
                return found
            after = int(stamps[-1][0])

    async def next(self, link: Link, after: int) -> int | None:
        """The last position of the next stamp that there is after this position; None: there is none."""
        [(position,)] = await link.fetch(self._next, after)
        return None if position is None else int(position)


def _position(record: OutboxRecord) -> int:
    return record.position
