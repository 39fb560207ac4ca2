"""Giving positions to entries of the log, once and for ever, whoever reads it: one statement a batch.

Positions are a dense count of the entries in the order of the log, so they depend on that order alone: a batch whose
stamp was lost in a crash gets the very same positions when the log is read again. That is why a stamp need not be
flushed before its records are published, as long as the log is not forgotten before the stamp is flushed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.postgres.pgoutput import format_lsn, parse_lsn
from ensue.stores.postgres.tail_log import Entry, Place
from ensue.stores.postgres.tail_slot import Rows

#: What tailing adds to the store's tables.
TABLES = (
    # How far the log is read. slot: empty before there is one. commit_lsn, within: the last entry that has a position.
    # pruned: rows up to this position may be gone. wanted_at: when somebody last found the slot taken.
    # leaving: a slot that is to be dropped, once what was emitted into it while the mode was switched is in the table.
    """CREATE TABLE IF NOT EXISTS ensue_tail (
        one integer PRIMARY KEY CHECK (one = 1),
        slot text NOT NULL DEFAULT '',
        commit_lsn pg_lsn NOT NULL DEFAULT '0/0',
        within integer NOT NULL DEFAULT 0,
        pruned bigint NOT NULL DEFAULT 0,
        leaving text NOT NULL DEFAULT '',
        wanted_at timestamptz NOT NULL DEFAULT '-infinity'
    )""",
    "INSERT INTO ensue_tail (one) VALUES (1) ON CONFLICT DO NOTHING",
)

_STATE = (
    "SELECT t.slot, t.commit_lsn::text, t.within, c.last_position, c.epoch, c.published_from "
    "FROM ensue_tail t, ensue_counter c WHERE t.one = 1 AND c.one = 1"
)
_HEADS = "SELECT topic, partition_no, position FROM ensue_outbox_head"

# The counter moves from exactly where it was believed to be, or nothing at all happens.
_MOVED = """
WITH moved AS (
    UPDATE ensue_counter c SET last_position = %(last)s FROM ensue_tail t
    WHERE c.one = 1 AND t.one = 1 AND c.last_position = %(was)s AND t.slot = %(slot)s
        AND t.commit_lsn = %(lsn_was)s AND t.within = %(within_was)s
    RETURNING c.epoch, c.published_from
), tail AS (
    UPDATE ensue_tail t SET commit_lsn = %(lsn)s, within = %(within)s FROM moved WHERE t.one = 1
), heads AS (
    INSERT INTO ensue_outbox_head (topic, partition_no, position)
    SELECT h.topic, h.number, h.position
    FROM moved,
        unnest(%(topics)s::text[], %(partitions)s::integer[], %(positions)s::bigint[]) h (topic, number, position)
    ON CONFLICT (topic, partition_no) DO UPDATE SET position = excluded.position
), kept AS (
"""
_STAMP_ROWS = (
    _MOVED
    + """
    INSERT INTO ensue_stamp (last, ids, previous)
    SELECT %(last)s, %(ids)s::bigint[], %(previous)s::bigint[] FROM moved
) SELECT epoch, published_from FROM moved"""
)
_KEEP_MESSAGES = (
    _MOVED
    + """
    INSERT INTO ensue_outbox (position, previous, topic, partition_no, record_key, envelope, data, written_at)
    SELECT r.* FROM moved, unnest(
        %(numbers)s::bigint[], %(previous)s::bigint[], %(of_topics)s::text[], %(of_partitions)s::integer[],
        %(keys)s::text[], %(envelopes)b::bytea[], %(datas)b::bytea[], %(times)s::float8[]
    ) r
) SELECT epoch, published_from FROM moved"""
)


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
    """Return the state. Raises psycopg's errors."""
    cursor = await connection.execute(_STATE)
    row = await cursor.fetchone()
    if row is None:
        raise StoreUnavailable("ensue_tail is empty: the store is being made or taken down")
    slot, lsn, within, position, epoch, published_from = row
    assert isinstance(within, int)
    assert isinstance(position, int)
    assert isinstance(published_from, int)
    return State(str(slot), Place(parse_lsn(str(lsn)), within), position, str(epoch), published_from)


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
        done = self.state.place
        kept: list[OutboxRecord] = []
        for of_rows, group in groupby((each for each in entries if each.place > done), lambda each: each.row_id > 0):
            run = list(group)
            await self._keep(run, of_rows)
            kept += [each.record for each in run]
        return kept

    async def _keep(self, run: Sequence[Entry], of_rows: bool) -> None:
        state = self.state
        position = state.position
        heads: dict[tuple[str, int], int] = {}
        for each in run:
            record = each.record
            where = (record.topic, record.partition)
            position += 1
            record.position = position
            record.previous = heads.get(where) or self._heads.get(where, 0)
            heads[where] = position
        place = run[-1].place
        values: dict[str, object] = {
            "slot": state.slot,
            "lsn": format_lsn(place.commit_lsn),
            "within": place.within,
            "lsn_was": format_lsn(state.place.commit_lsn),
            "within_was": state.place.within,
            "last": position,
            "was": state.position,
            "topics": [topic for topic, _ in heads],
            "partitions": [partition for _, partition in heads],
            "positions": list(heads.values()),
            "previous": [each.record.previous for each in run],
        }
        if of_rows:
            values["ids"] = [each.row_id for each in run]
        else:
            values |= {
                "numbers": [each.record.position for each in run],
                "of_topics": [each.record.topic for each in run],
                "of_partitions": [each.record.partition for each in run],
                "keys": [each.record.key for each in run],
                "envelopes": [each.record.envelope for each in run],
                "datas": [each.record.data for each in run],
                "times": [each.written_at for each in run],
            }
        cursor = await self._connection.execute(_STAMP_ROWS if of_rows else _KEEP_MESSAGES, values)
        row = await cursor.fetchone()
        if row is None:
            raise Overtaken
        epoch, published_from = row
        assert isinstance(published_from, int)
        self.state = State(state.slot, place, position, str(epoch), published_from)
        self._heads |= heads
        for each in run:  # what an epoch begins with follows on nothing
            if each.record.previous <= published_from:
                each.record.previous = 0


async def insert_lsn(connection: Rows) -> int:
    """How far the server has written its log, flushed or not."""
    cursor = await connection.execute("SELECT pg_current_wal_insert_lsn()::text")
    row = await cursor.fetchone()
    assert row is not None
    return parse_lsn(str(row[0]))


__all__ = ["TABLES", "Overtaken", "Stamper", "State", "insert_lsn", "load_state"]
