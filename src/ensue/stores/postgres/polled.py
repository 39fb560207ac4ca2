"""Mode `poll`: whoever reads for the relay gives positions, and writes down which, without touching a record again.

A look reads what is visible and has no position, in id order (ids grow in commit order within one key, since the
entity's row lock is taken before the insert). One statement then moves the counter from exactly where the look has
seen it and keeps the ids in `ensue_stamp`, or changes nothing, when another relay was quicker. Only when that has
committed are the records returned: a position that was returned once is final, and none appears late. What commits
late is found in the holes that its ids have left (`holes.py`). See ADR 18.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ensue.message import OutboxRecord
from ensue.stores.numbering import Place, begin_after, number
from ensue.stores.postgres import left_slot
from ensue.stores.postgres.by_stamp import LOCK, ByStamp, Switched
from ensue.stores.postgres.holes import Hole, advance
from ensue.stores.postgres.stamps import STAMPED_MAX, Reader
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import OutboxContext

_RECORD = "o.id, o.topic, o.partition_no, o.record_key, o.envelope, o.data"
# One statement, one snapshot: the counter, what is visible in the holes and behind the mark, and the oldest open
# transaction. The first row is none of the outbox. $1: the position after which records are wanted; new ones only when
# none has got its own but the one at the counter, which comes along: its id is -1 - previous. (A relay that has sent
# everything reads on from its last record.)
LOOK = f"""
WITH state AS MATERIALIZED (
    SELECT c.last_position, c.epoch, c.published_from, p.seen_id, p.hole_first, p.hole_last, p.hole_before
    FROM ensue_counter c, ensue_polled p WHERE c.one = 1 AND p.one = 1
)
SELECT 0::bigint, '', 0, json_build_array(s.last_position, s.epoch, s.published_from, s.seen_id,
    s.hole_first, s.hole_last, s.hole_before, pg_snapshot_xmin(pg_current_snapshot())::text::bigint)::text,
    ''::bytea, ''::bytea
FROM state s
UNION ALL (
    SELECT {_RECORD} FROM state s CROSS JOIN LATERAL unnest(s.hole_first, s.hole_last) h (first, last)
    CROSS JOIN LATERAL (SELECT * FROM ensue_outbox i WHERE i.id BETWEEN h.first AND h.last ORDER BY i.id LIMIT $2) o
    WHERE s.last_position - 1 <= $1 ORDER BY o.id LIMIT $2
) UNION ALL (
    SELECT {_RECORD} FROM ensue_outbox o
    WHERE o.id > (SELECT seen_id FROM state) AND (SELECT last_position - 1 FROM state) <= $1 ORDER BY o.id LIMIT $2
) UNION ALL (
    SELECT -1 - t.previous[cardinality(t.ids)], o.topic, o.partition_no, o.record_key, o.envelope, o.data
    FROM state s JOIN ensue_stamp t ON t.last = s.last_position JOIN ensue_outbox o ON o.id = t.ids[cardinality(t.ids)]
    WHERE s.last_position - 1 = $1 AND s.last_position > s.published_from
)"""
KEEP = """
WITH moved AS (
    UPDATE ensue_counter SET last_position = $1
    WHERE one = 1 AND last_position = $2 AND epoch = $3 AND EXISTS (SELECT FROM ensue_meta WHERE outbox_mode = 'poll')
    RETURNING 1
), polled AS (
    UPDATE ensue_polled p SET seen_id = $4, hole_first = $5, hole_last = $6,
        hole_before = array_replace($7::bigint[], 0, pg_current_xact_id()::text::bigint)
    FROM moved WHERE p.one = 1
), heads AS (
    INSERT INTO ensue_outbox_head (topic, partition_no, position)
    SELECT h.topic, h.number, h.position
    FROM moved, unnest($8::text[], $9::integer[], $10::bigint[]) h (topic, number, position)
    ON CONFLICT (topic, partition_no) DO UPDATE SET position = excluded.position
), kept AS (
    INSERT INTO ensue_stamp (last, ids, previous) SELECT $1, $11::bigint[], $12::bigint[] FROM moved
)
SELECT (SELECT count(*) FROM moved), (SELECT outbox_mode FROM ensue_meta)"""
HEADS = (
    "SELECT c.last_position, h.topic, h.partition_no, h.position "
    "FROM ensue_counter c LEFT JOIN ensue_outbox_head h ON true WHERE c.one = 1"
)
#: What waits where nobody tells us asks: the counter, and whether there is something unread.
WAITING = (
    "SELECT c.last_position, "
    "coalesce((SELECT max(id) FROM ensue_outbox) > (SELECT seen_id FROM ensue_polled), false) OR "
    "EXISTS (SELECT FROM ensue_polled p, unnest(p.hole_first, p.hole_last) h (first, last), "
    "LATERAL (SELECT FROM ensue_outbox o WHERE o.id BETWEEN h.first AND h.last LIMIT 1) o) "
    "FROM ensue_counter c"
)
_YOUNGEST = "SELECT coalesce(max(id), 0) FROM ensue_outbox"
_ANEW = "UPDATE ensue_polled SET seen_id = 0, hole_first = '{}', hole_last = '{}', hole_before = '{}'"
#: More than any counter: whatever it says, records are wanted.
_ANY = 2**62
#: How often another relay may be quicker before this one leaves it to the next look.
_TRIES = 3


class State(NamedTuple):
    """What a look saw beside records. oldest: the lowest transaction id that was open."""

    last: int
    epoch: str
    published_from: int
    seen: int
    hole_first: list[int]
    hole_last: list[int]
    hole_before: list[int]
    oldest: int

    @property
    def holes(self) -> list[Hole]:
        return [Hole(*each) for each in zip(self.hole_first, self.hole_last, self.hole_before, strict=True)]


_state = msgspec.json.Decoder(State).decode


class Look(NamedTuple):
    """own: the record at the counter, if it was asked for. ids, records: new ones, in order, with it not beyond the
    limit. whole: all that was visible in the holes is among them."""

    state: State
    own: list[OutboxRecord]
    ids: list[int]
    records: list[OutboxRecord]
    whole: bool


class PolledOutbox(ByStamp):
    """The `Outbox` of mode `poll`."""

    mode = "poll"

    def __init__(self, context: OutboxContext) -> None:
        super().__init__(context, Reader(context.dialect.text))
        #: The heads, and the counter's position to which they belong: only who moves the counter moves them.
        self._heads: dict[Place, int] = {}
        self._heads_at = -1

    # --- its life

    async def open(self) -> None:
        await left_slot.drop(self._context.relay_pool)

    async def close(self) -> None: ...

    async def prepare(self, link: Link) -> None:
        """Give up what a tail has kept: all of it is sent, and belongs to the epoch that ends now."""
        await link.script("DELETE FROM ensue_outbox WHERE id IN (SELECT unnest(ids) FROM ensue_stamp)")
        await link.script("DELETE FROM ensue_stamp")
        await link.script(_ANEW)
        await link.script(left_slot.LEAVE)

    # --- the step's side

    def committed(self) -> None:
        self._context.notifier.announce()

    # --- the relay's side

    async def after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        self._context.wakeup.looked()
        found: list[OutboxRecord] = []
        for _ in range(_TRIES):
            wanted = min(limit - len(found), STAMPED_MAX)
            last, fresh = await self._context.relay_pool.read(
                lambda link, after=position, wanted=wanted: self._stamp(link, after, wanted)  # type: ignore[misc]
            )
            if fresh is not None:
                return found + fresh
            position = max(position, self._context.current.identity.published_from)
            found += await self._stored(position, last, limit - len(found))
            if len(found) >= limit or (found and found[-1].position < last):
                break
            position = last
        return found

    async def _stamp(self, link: Link, after: int, limit: int) -> tuple[int, list[OutboxRecord] | None]:
        """Return the counter and, when there is no more than one record between, what is after `after`; what had no
        position was given the next ones."""
        look = await self._look_for_new(link, after, limit)
        state = look.state
        if state.last - len(look.own) > after:
            return state.last, None
        if not look.records:
            return state.last, look.own
        if not await self._keep(link, look):
            return after, None  # another relay was quicker: look again
        return look.records[-1].position, look.own + look.records

    async def _look_for_new(self, link: Link, after: int, limit: int) -> Look:
        rows = await link.fetch(LOOK, after, limit)
        first = next(row for row in rows if row[0] == 0)
        state = _state(first[3])
        self._context.current.note(state.epoch, state.published_from)
        self._context.notifier.saw(state.last)
        found = sorted((row for row in rows if row[0] > 0), key=_id)
        own = [_own(state, row) for row in rows if row[0] < 0]
        room = limit - len(own)
        whole = sum(row[0] <= state.seen for row in found) < room
        del found[room:]
        records = [OutboxRecord(*row[1:]) for row in found]
        return Look(state, own, [row[0] for row in found], records, whole)

    async def _keep(self, link: Link, look: Look) -> bool:
        """Give the records their positions; False: the counter is not where the look saw it any more."""
        state = look.state
        if self._heads_at != state.last and not await self._load_heads(link, state.last):
            return False
        # Never changed in place: what another task of this process is about to write may be rolled back.
        known = self._heads
        heads: dict[Place, int] = {}
        position = number(look.records, state.last, known, heads)
        seen, holes = advance(state.seen, state.holes, look.ids, state.oldest, whole=look.whole)
        [(moved, mode)] = await link.fetch(
            KEEP, position, state.last, state.epoch, seen,
            [each.first for each in holes], [each.last for each in holes], [each.before for each in holes],
            [topic for topic, _ in heads], [partition for _, partition in heads], list(heads.values()),
            look.ids, [each.previous for each in look.records],
        )  # fmt: skip
        if mode != self.mode:
            raise Switched(mode)
        if not moved:
            self._heads_at = -1
            return False
        self._heads, self._heads_at = known | heads, position
        begin_after(look.records, state.published_from)
        return True

    async def _load_heads(self, link: Link, last: int) -> bool:
        rows = await link.fetch(HEADS)
        if int(rows[0][0]) != last:
            return False
        self._heads = {(topic, partition): position for _, topic, partition, position in rows if topic is not None}
        self._heads_at = last
        return True

    async def heads(self) -> Mapping[tuple[str, int], int]:
        """What is committed is stamped first, so that a relay that starts knows all of it."""
        await self._context.relay_pool.run(self._stamp_all)
        return await self._stored_heads()

    async def _stamp_all(self, link: Link) -> None:
        """Stamp what is committed by now, inside a transaction. What is committed meanwhile has time: others wait.

        Under steady commits there is always something new, and the counter's lock, held here, keeps relays out.
        """
        await link.fetch(LOCK)
        [(youngest,)] = await link.fetch(_YOUNGEST)
        try:
            while True:
                look = await self._look_for_new(link, _ANY, STAMPED_MAX)
                if not look.ids or look.ids[0] > youngest:
                    break
                await self._keep(link, look)
        finally:
            self._heads_at = -1  # nothing of this is sure before the commit

    async def wait(self, timeout_s: float) -> None:
        await self._context.notifier.wait(timeout_s)

    # --- epochs and operators

    async def begin_epoch(self, link: Link, epoch: str, published_through: int, ends: str) -> None:
        """What is committed is stamped first, so that `published_through` means the same as it did to who asked."""
        await self._stamp_all(link)
        await self._write_epoch(link, epoch, published_through, ends)

    async def warnings(self, link: Link) -> Sequence[str]:
        return await left_slot.warnings(link)


def _id(row: Sequence[int]) -> int:
    return row[0]


def _own(state: State, row: Sequence[Any]) -> OutboxRecord:
    own = OutboxRecord(*row[1:])
    own.position, own.previous = state.last, -1 - row[0]
    begin_after([own], state.published_from)
    return own
