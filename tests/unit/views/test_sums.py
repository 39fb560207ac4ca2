"""The sums of buckets tell rows that differ, however often each is there, and nothing else."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.errors import UsageError
from ensue.message import Envelope, Message
from ensue.views.moments import Moments
from ensue.views.sums import Sums, canonical, differences, row_bytes

values = (
    st.none()
    | st.integers()
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
    | st.datetimes()
    | st.dates()
)
rows = st.lists(st.tuples(st.integers(0, 30), values), max_size=40)
SECRET = b"s" * 32


def sums_of(found: list[tuple[int, Any]], secret: bytes = SECRET) -> Sums:
    made = Sums(secret)
    for key, value in found:
        made.add(canonical(key), row_bytes({"key": key, "value": value}))
    return made


@settings(deadline=None)  # hundreds of rows, on a machine that is shared
@given(rows, st.randoms())
def test_the_order_of_rows_does_not_count(found: list[tuple[int, Any]], chance: Any) -> None:
    other = list(found)
    chance.shuffle(other)
    assert not sums_of(found).differing(sums_of(other))


@settings(deadline=None)  # hundreds of rows, on a machine that is shared
@given(rows, rows)
def test_buckets_differ_if_and_only_if_their_rows_do(one: list[tuple[int, Any]], other: list[tuple[int, Any]]) -> None:
    ours, theirs = sums_of(one), sums_of(other)

    def by_bucket(found: list[tuple[int, Any]]) -> dict[int, list[bytes]]:
        held: dict[int, list[bytes]] = {}
        for key, value in found:
            held.setdefault(ours.bucket(canonical(key)), []).append(row_bytes({"key": key, "value": value}))
        return {bucket: sorted(each) for bucket, each in held.items()}

    held, others = by_bucket(one), by_bucket(other)
    assert ours.differing(theirs) == {each for each in {*held, *others} if held.get(each) != others.get(each)}


def test_a_row_that_is_there_twice_does_not_take_itself_out() -> None:
    twice, none = sums_of([(1, "a"), (1, "a")]), sums_of([])
    assert twice.differing(none) == {twice.bucket(canonical(1))}
    # As many rows, of one key: an exclusive or would be nothing in both.
    assert twice.differing(sums_of([(1, "b"), (1, "b")]))
    thrice, once = sums_of([(1, "a")] * 3), sums_of([(1, "a")])
    assert thrice.differing(once)
    [difference] = differences("t", {canonical(1): [((1,), {"key": 1})] * 3}, {canonical(1): [((1,), {"key": 1})]})
    assert str(difference) == "t 1: is there 3 times, expected 1"


@settings(deadline=None)  # hundreds of rows, on a machine that is shared
@given(rows.filter(bool))
def test_another_secret_gives_other_sums(found: list[tuple[int, Any]]) -> None:
    one, other = sums_of(found), sums_of(found, b"t" * 32)
    assert one.differing(other)
    assert one.count == other.count


@settings(deadline=None)  # hundreds of rows, on a machine that is shared
@given(st.lists(values, max_size=4), st.lists(values, max_size=4))
def test_canonical_bytes_are_the_same_only_for_what_is_the_same(one: list[Any], other: list[Any]) -> None:
    same = b"".join(map(canonical, one)) == b"".join(map(canonical, other))
    assert same == (one == other and list(map(_kind, one)) == list(map(_kind, other)))


def _kind(value: Any) -> type:
    return int if isinstance(value, bool) else type(value)


def test_one_moment_in_two_zones_is_one_value_and_so_is_one_number_with_more_zeros() -> None:
    berlin = datetime.timezone(datetime.timedelta(hours=1))
    assert canonical(datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)) == canonical(
        datetime.datetime(2026, 1, 1, 13, tzinfo=berlin)
    )
    assert canonical(decimal.Decimal("10.0")) == canonical(decimal.Decimal(10))
    assert canonical(0.0) == canonical(-0.0)
    assert canonical({"a": 1, "b": [uuid.UUID(int=1)]}) == canonical({"b": [uuid.UUID(int=1)], "a": 1})


def test_what_has_no_bytes_is_refused() -> None:
    with pytest.raises(UsageError, match="a object cannot be compared"):
        canonical(object())


def test_the_last_position_at_a_time_is_found_although_a_clock_went_back() -> None:
    def message(position: int, time: str) -> Message:
        return Message(
            "t", 0, position, "k", "s/1", position, position - 1, Envelope(f"m{position}", "t.E.v1", time), b""
        )

    records = [
        message(1, "2026-01-01T00:00:10Z"),
        message(2, "2026-01-01T00:00:30Z"),
        message(3, "2026-01-01T00:00:20Z"),
        message(4, "2026-01-01T00:00:40Z"),
        message(5, ""),
    ]
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()

    def last(moment: float) -> dict[str, int]:
        found = Moments(moment)
        for each in records:
            found.add(each)
        return found.positions

    assert last(at) == {}
    assert last(at + 10) == {"s/1": 1}
    assert last(at + 25) == {"s/1": 3}
    assert last(at + 50) == {"s/1": 4}
