"""What a checkpoint says of one event is what the rules of reading have done with it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cli.flow.facts import message

from ensue.catch_up import Since, adopted, plan_catch_up
from ensue.message import CatchUp, Checkpoint, Gap, GapState, Message, Missed
from ensue.operations.flow.facts import Handled, Place, Sighting, State, Subscriber, standing
from ensue.plan import plan

KIND, OTHER = "orders.Placed.v1", "orders.Other.v1"
SOURCE = "orders/e1"
LATER = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def judged(
    checkpoint: Checkpoint | None, since: Since = "beginning", place: Place = Place.LOG, **more: Any
) -> tuple[State, str]:
    found = message("a", **{"kind": KIND, "offset": 7, "position": 5, **more})
    places = {} if checkpoint is None else {("orders", 0): checkpoint}
    reader = Subscriber("customers", {KIND: Handled("orders", since, ("on",))}, places)
    result = standing(Sighting("orders", found, place), reader)
    return result.state, result.reason


def test_what_the_watermark_has_passed_is_done_and_the_rest_waits() -> None:
    assert judged(Checkpoint(9, 1, {SOURCE: 5})) == (State.DONE, "")
    assert judged(Checkpoint(6, 1, {SOURCE: 4})) == (
        State.PENDING,
        "customers has read orders/0 to offset 6, and this is 7",
    )
    assert judged(None) == (State.PENDING, "customers has read nothing of orders/0 yet")


def test_a_message_without_a_chain_goes_by_its_offset() -> None:
    assert judged(Checkpoint(7, 1), position=0)[0] is State.DONE
    assert judged(Checkpoint(6, 1), position=0)[0] is State.PENDING


@pytest.mark.parametrize("place", [Place.TIMER, Place.UNSENT, Place.HELD])
def test_what_is_not_in_the_log_is_pending_for_everybody(place: Place) -> None:
    assert judged(Checkpoint(9, 1, {SOURCE: 5}), place=place) == (State.PENDING, "it is not in the log yet")


def test_what_the_log_has_no_more_goes_by_its_position() -> None:
    began = {KIND: 6}
    assert judged(Checkpoint(9, 1, {SOURCE: 5}, began=began), "now", Place.SENT, offset=0)[0] is State.DONE
    assert judged(Checkpoint(9, 1, {SOURCE: 4}), place=Place.SENT, offset=0) == (
        State.PENDING,
        "customers has read orders/0 to offset 9",
    )


def test_a_database_that_did_not_answer_is_unknown() -> None:
    reader = Subscriber("customers", {KIND: Handled("orders", "beginning", ("on",))}, None)
    found = standing(Sighting("orders", message("a"), Place.LOG), reader)
    assert (found.state, found.reason) == (State.UNKNOWN, "the database of customers did not tell")


@pytest.mark.parametrize("state", GapState)
def test_a_gap_is_told(state: GapState) -> None:
    found = judged(Checkpoint(9, 1, {SOURCE: 2}, {SOURCE: Gap(SOURCE, 2, 6, 0.0, state)}))
    assert found == (
        State.PENDING,
        f"held back by a gap ({state}): customers has applied position 2 of {SOURCE} in orders/0 and needs those up to "
        "6, this one is 5",
    )


def test_what_is_from_before_its_handler_is_passed_over() -> None:
    said = "it was published before its handler began"
    read = Checkpoint(9, 1, {SOURCE: 5}, types=(KIND,), began={KIND: 7})
    assert judged(read, "now") == (State.PASSED_OVER, said)
    assert judged(read, "now", offset=8) == (State.DONE, "")
    assert judged(read, LATER) == (State.PASSED_OVER, said)
    assert judged(Checkpoint(9, 1, {SOURCE: 5}, types=()), "now") == (State.PASSED_OVER, said)


def test_a_handler_that_no_worker_has_had_yet_waits() -> None:
    said = (State.PENDING, "no worker of customers has read orders/0 for its handler yet")
    assert judged(Checkpoint(9, 1, {SOURCE: 5}, types=(OTHER,))) == said
    assert judged(Checkpoint(9, 1, {SOURCE: 5}, types=(), missed={KIND: Missed()})) == said  # `ensue replay`
    before = {KIND: Missed(8, {SOURCE: 5})}
    assert judged(Checkpoint(9, 1, {SOURCE: 6}, types=(), missed=before)) == (State.DONE, "")


def test_what_is_read_again_waits_until_it_is_come_to() -> None:
    def running(position: int, done: int = 0) -> Checkpoint:
        again = CatchUp((KIND,), 3, 9, {SOURCE: position}, {KIND: {SOURCE: done}}, {})
        return Checkpoint(9, 1, {SOURCE: 8}, types=(KIND,), catching_up=again)

    assert judged(running(4)) == (
        State.PENDING,
        "customers reads orders/0 again for its handler, and has not come to it",
    )
    assert judged(running(5)) == judged(running(0, done=5)) == (State.DONE, "")


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """What two sources wrote, with some of it lost and some repeated."""
    last = {"orders/e1": 0, "shop/e1": 0}
    written: list[Message] = []
    for position in range(1, draw(st.integers(1, 14)) + 1):
        source = draw(st.sampled_from(sorted(last)))
        kind = draw(st.sampled_from([KIND, OTHER]))
        written.append(message(f"m{position}", source=source, kind=kind, position=position, previous=last[source]))
        last[source] = position
    kept = [each for each in written if draw(st.integers(0, 9))]
    log = kept + draw(st.lists(st.sampled_from(kept), max_size=3) if kept else st.just([]))
    return [type(each)("orders", 0, offset, *[getattr(each, name) for name in each.__struct_fields__[3:]])
            for offset, each in enumerate(log, 1)]  # fmt: skip


def read(checkpoint: Checkpoint, batch: list[Message], known: tuple[str, ...], applied: set[str]) -> Checkpoint:
    """One batch, as a consumer saves it."""
    found = plan(batch, checkpoint.watermarks, checkpoint.gaps, known, (), 0.0)
    applied |= {each.id for each in found.apply}
    gaps = {source: gap for source, gap in {**checkpoint.gaps, **found.gaps}.items() if gap is not None}
    return Checkpoint(
        found.offset or checkpoint.offset, 1, checkpoint.watermarks | found.watermarks, gaps, types=known
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(logs(), st.integers(0, 14), st.integers(0, 14))
def test_done_is_what_was_applied_also_when_a_handler_came_later(log: list[Message], first: int, again: int) -> None:
    applied: set[str] = set()
    checkpoint = read(Checkpoint(types=(KIND,)), log[:first], (KIND,), applied)
    wanted: dict[str, Since] = {KIND: "beginning", OTHER: "beginning"}
    reader = Subscriber("customers", {each: Handled("orders", "beginning", ("on",)) for each in wanted},
                        {("orders", 0): checkpoint})  # fmt: skip

    def done() -> set[str]:
        found = [each for each in log if standing(Sighting("orders", each, Place.LOG), reader).state is State.DONE]
        return {each.id for each in found}

    assert done() == applied  # of a version that does not handle the other type
    following = adopted(checkpoint, wanted, len(log))
    assert following is not None
    checkpoint = reader.checkpoints["orders", 0] = following  # type: ignore[index]  # it is a dict
    assert done() == applied
    if checkpoint.catching_up is not None:
        found = plan_catch_up(log[:again], checkpoint, wanted, ())
        applied |= {each.id for each in found.apply}
        checkpoint.catching_up = found.catching_up
        if found.catching_up is None or not found.catching_up.holes:
            assert done() == applied
