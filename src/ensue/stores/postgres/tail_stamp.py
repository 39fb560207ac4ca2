"""Giving positions to entries of the log, once and for ever, whoever reads it: one statement a batch.

Positions are a dense count of the entries in the order of the log, so they depend on that order alone: a batch whose
stamp was lost in a crash gets the very same positions when the log is read again. That is why a stamp need not be
flushed before its records are published, as long as the log is not forgotten before the stamp is flushed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.numbering import begin_after, number
from ensue.stores.postgres.by_stamp import Switched
from ensue.stores.postgres.tail_access import Rows
from ensue.stores.postgres.tail_log import Entry, Place

_STATE = (
    "SELECT t.slot, t.commit_lsn, t.within, c.last_position, c.epoch, c.published_from, m.outbox_mode "
    "FROM ensue_tail t, ensue_counter c, ensue_meta m WHERE t.one = 1 AND c.one = 1"
)
_HEADS = "SELECT topic, partition_no, position FROM ensue_outbox_head"

# The counter moves from exactly where it was believed to be, or nothing at all happens. The epoch tells of a switch to
# another mode: it is in the counter's row, and of no other row does who has waited for its lock see what is there now.
_STAMP = """
WITH moved AS (
    UPDATE ensue_counter c SET last_position = %(last)s FROM ensue_tail t
    WHERE c.one = 1 AND t.one = 1 AND c.last_position = %(was)s AND c.epoch = %(epoch)s AND t.slot = %(slot)s
        AND t.commit_lsn = %(lsn_was)s AND t.within = %(within_was)s
    RETURNING 1
), tail AS (
    UPDATE ensue_tail t SET commit_lsn = %(lsn)s, within = %(within)s FROM moved WHERE t.one = 1
), heads AS (
    INSERT INTO ensue_outbox_head (topic, partition_no, position)
    SELECT h.topic, h.number, h.position
    FROM moved,
        unnest(%(topics)s::text[], %(partitions)s::integer[], %(positions)s::bigint[]) h (topic, number, position)
    ON CONFLICT (topic, partition_no) DO UPDATE SET position = excluded.position
), kept AS (
    INSERT INTO ensue_stamp (last, ids, previous)
    SELECT %(last)s, %(ids)s::bigint[], %(previous)s::bigint[] FROM moved
) SELECT FROM moved"""


class State(NamedTuple):
    """How far the log has been read, by whoever did it, and which history its records belong to."""

    slot: str
    place: Place
    position: int
    epoch: str
    published_from: int


class Overtaken(Exception):
    """Somebody else gave positions meanwhile: look again."""


async def load_state(connection: Rows) -> State:
    """Return the state. Raises Switched when the log is not what the outbox is read from any more; psycopg's errors."""
    cursor = await connection.execute(_STATE)
    row = await cursor.fetchone()
    if row is None:
        raise StoreUnavailable("ensue_tail is empty: the store is being made or taken down")
    slot, lsn, within, position, epoch, published_from, mode = row
    if mode != "wal":
        raise Switched(str(mode))
    assert isinstance(lsn, int)
    assert isinstance(within, int)
    assert isinstance(position, int)
    assert isinstance(published_from, int)
    return State(str(slot), Place(lsn, within), position, str(epoch), published_from)


class Stamper:
    """Knows the counter and the heads as this connection left them; whoever else moves them makes it look again.

    Its session does not wait for the flush of its commits (see above).
    """

    def __init__(self, connection: Rows) -> None:
        self._connection = connection
        self.state = State("", Place(0, 0), 0, "", 0)
        self._heads: dict[tuple[str, int], int] = {}

    async def load(self) -> State:
        cursor = await self._connection.execute("SET synchronous_commit = off; SET jit = off")
        self.state = await load_state(self._connection)
        cursor = await self._connection.execute(_HEADS)
        self._heads = {(topic, partition): position for topic, partition, position in await cursor.fetchall()}  # type: ignore[misc]
        return self.state

    async def keep(self, entries: Sequence[Entry]) -> list[OutboxRecord]:
        """Give positions to those entries that have none yet; return these, in order, position and previous set.

        Raises Overtaken when another connection moved the counter: nothing was changed, `load` and call again.
        """
        run = [each for each in entries if each.place > self.state.place]
        if not run:
            return []
        state, place = self.state, run[-1].place
        records = [each.record for each in run]
        heads: dict[tuple[str, int], int] = {}
        position = number(records, state.position, self._heads, heads)
        values = {
            "slot": state.slot,
            "epoch": state.epoch,
            "lsn": place.commit_lsn,
            "within": place.within,
            "lsn_was": state.place.commit_lsn,
            "within_was": state.place.within,
            "last": position,
            "was": state.position,
            "topics": [topic for topic, _ in heads],
            "partitions": [partition for _, partition in heads],
            "positions": list(heads.values()),
            "ids": [each.row_id for each in run],
            "previous": [each.previous for each in records],
        }
        cursor = await self._connection.execute(_STAMP, values)
        if await cursor.fetchone() is None:
            raise Overtaken
        self.state = state._replace(place=place, position=position)
        self._heads |= heads
        begin_after(records, state.published_from)
        return records


async def insert_lsn(connection: Rows) -> int:
    """How far the server has written its log, flushed or not."""
    cursor = await connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
    [(lsn,)] = await cursor.fetchall()
    assert isinstance(lsn, int)
    return lsn
