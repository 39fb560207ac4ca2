"""The sequence is the same for the same facts, and each event is in it once, behind its cause."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cli.flow.facts import BEGIN, at, message, seen, set_aside, subscriber

from ensue.cli.flow.text import as_text
from ensue.message import Checkpoint, DeadLetterState
from ensue.operations.flow.facts import Place, Sighting, State
from ensue.operations.flow.mermaid import as_mermaid
from ensue.operations.flow.sequence import Cause, sequence_of

PLACED, RESERVED, OPENED = "orders.Placed.v1", "customers.Reserved.v1", "orders.Opened.v1"
#: Moments that are times, and none that can be shown in UTC.
EXTREMES = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")
ORDERS = subscriber("orders", RESERVED)
CUSTOMERS = subscriber("customers", PLACED)
FLOW = [
    seen("a", time=at(1)),
    seen("b", kind=RESERVED, cause="a", source="customers/e1", time=at(1.5)),
    seen("c", kind=OPENED, cause="b", time=at(2.25)),
]


def test_what_is_withdrawn_says_so_and_nobody_is_said_to_have_handled_it() -> None:
    gone = seen("b", Place.WITHDRAWN, kind=RESERVED, cause="a", source="customers/e1", time=at(1.5))
    _, second = events = sequence_of([FLOW[0], gone], [ORDERS, CUSTOMERS])
    assert second.reactions == ()
    assert "withdrawn by customers: nobody gets it" in "\n".join(as_text("flow", events))


def test_each_event_follows_on_its_cause_and_says_how_long_after() -> None:
    events = sequence_of(FLOW[::-1], [ORDERS, CUSTOMERS])
    assert [(each.number, each.id, each.cause, each.because_of, each.after_s) for each in events] == [
        (1, "a", Cause.OUTSIDE, None, 0.0),
        (2, "b", Cause.EVENT, 1, 0.5),
        (3, "c", Cause.EVENT, 2, 1.25),
    ]
    [reaction] = events[0].reactions
    assert (reaction.service, reaction.handlers, reaction.state, reaction.published) == (
        "customers",
        ("on_placed",),
        State.DONE,
        (2,),
    )
    assert events[2].reactions == ()


def test_a_cause_comes_first_whatever_the_clocks_of_two_databases_say() -> None:
    behind = seen("b", kind=RESERVED, cause="a", source="customers/e1", time=at(0.5))
    assert [(each.id, each.after_s) for each in sequence_of([behind, FLOW[0]], [])] == [("a", 0.0), ("b", -0.5)]


def test_the_same_event_in_several_places_is_one_event_in_the_last_of_them() -> None:
    sent_again = seen("a", time=at(1), offset=9)
    places = [seen("a", place, time=at(1), offset=0) for place in (Place.TIMER, Place.UNSENT, Place.SENT)]
    for count in range(1, 4):
        [event] = sequence_of(places[:count][::-1], [CUSTOMERS])
        assert event.place is places[count - 1].place
    [event] = sequence_of([*places, sent_again, FLOW[0]], [CUSTOMERS])
    assert (event.place, event.offset) == (Place.LOG, 1)


def test_an_event_whose_cause_was_not_found_says_so() -> None:
    [event] = sequence_of(FLOW[2:], [])
    assert (event.cause, event.causation_id, event.because_of) == (Cause.MISSING, "b", None)


def test_a_service_that_was_not_named_is_known_by_what_it_published() -> None:
    events = sequence_of(FLOW, [])
    assert [(each.service, each.handlers, each.published) for each in events[0].reactions] == [("customers", (), (2,))]


def test_what_a_service_published_shows_that_it_has_applied_the_cause() -> None:
    behind = subscriber("customers", PLACED, checkpoint=Checkpoint(0, 1, {}))
    assert sequence_of(FLOW[:1], [behind])[0].reactions[0].state is State.PENDING
    assert sequence_of(FLOW, [behind])[0].reactions[0].state is State.DONE


def test_why_something_waits_is_told_by_the_place_that_counts() -> None:
    behind = subscriber("customers", PLACED, checkpoint=Checkpoint(0, 1, {}))
    [event] = sequence_of([seen("a", Place.UNSENT, time=at(1), offset=0), FLOW[0]], [behind])
    assert event.reactions[0].reason == "customers has read orders/0 to offset 0, and this is 1"


def test_a_dead_letter_is_the_state_of_its_event_and_enough_to_know_it() -> None:
    letter = set_aside(message("a"), attempts=5)
    [event] = sequence_of([], [subscriber("customers", PLACED, letters=(letter,))])
    assert event.place is Place.SENT
    [reaction] = event.reactions
    assert (reaction.state, reaction.handlers) == (State.SET_ASIDE, ("on_placed",))
    assert reaction.letter is not None
    assert (reaction.letter.state, reaction.letter.attempts) == ("dead", 5)
    assert reaction.letter.error == "KeyError: handler on_placed: 'ann'"


def test_of_several_letters_of_one_event_the_last_one_counts() -> None:
    first = set_aside(message("a"), DeadLetterState.DISCARDED, parked_at=1.0)
    last = set_aside(message("a"), DeadLetterState.RETRYING, parked_at=2.0, number=2, due_at=9.0)
    for letters in ((first, last), (last, first)):
        [event] = sequence_of([], [subscriber("customers", PLACED, letters=letters)])
        letter = event.reactions[0].letter
        assert letter is not None
        assert (letter.id, letter.state, letter.due_at) == ("orders/0:2", "retrying", 9.0)


def test_somebody_elses_message_with_the_same_id_is_no_cause() -> None:
    forged = seen("a", kind="clicks.Clicked.v1", source="https://else.where", position=0, time=at(0))
    events = sequence_of([forged, *FLOW], [])
    assert [(each.id, each.sender, each.because_of) for each in events] == [
        ("a", "https://else.where", None),
        ("a", "orders", None),
        ("b", "customers", 2),
        ("c", "orders", 3),
    ]


def test_a_type_in_another_topic_than_the_handler_reads_is_not_handled() -> None:
    other = message("a")
    found = Sighting("orders", type(other)("else", *[getattr(other, each) for each in other.__struct_fields__[1:]]),
                     Place.LOG)  # fmt: skip
    assert sequence_of([found], [CUSTOMERS])[0].reactions == ()


def test_a_circle_is_cut_at_its_first_event() -> None:
    circle = [
        seen(each, cause=cause, time=at(n + 1)) for n, (each, cause) in enumerate([("a", "c"), ("b", "a"), ("c", "b")])
    ]
    hanging = seen("d", cause="c", time=at(0))
    lone = seen("e", cause="e", time=at(9))
    events = sequence_of([*circle, hanging, lone], [])
    assert [(each.id, each.cause, each.because_of) for each in events] == [
        ("a", Cause.CIRCLE, None),
        ("b", Cause.EVENT, 1),
        ("c", Cause.EVENT, 2),
        ("d", Cause.EVENT, 3),
        ("e", Cause.CIRCLE, None),
    ]


def test_a_long_chain_is_no_deep_recursion() -> None:
    chain = [seen(f"{n}", cause=f"{n - 1}" if n else "") for n in range(5_000)]
    assert [each.id for each in sequence_of(chain[::-1], [])] == [each.message.id for each in chain]


@pytest.mark.parametrize("time", [*EXTREMES, "", "soon", "2026-11-27T09:00:00"])
def test_a_time_that_is_none_is_not_known_and_comes_last(time: str) -> None:
    events = sequence_of([seen("z", time=time), FLOW[0]], [])
    assert [(each.id, each.at is None, each.after_s) for each in events] == [("a", False, 0.0), ("z", True, None)]


IDS = st.sampled_from("abcdef")
SENDERS = ("orders/e1", "orders/e2", "customers/e1", "billing/e1", "https://else.where")
TIMES = st.one_of(st.floats(0, 59, allow_nan=False).map(at), st.sampled_from([BEGIN, "", "long ago", *EXTREMES]))


@st.composite
def sightings(draw: st.DrawFn) -> Sighting:
    source = draw(st.sampled_from(SENDERS))
    return seen(
        draw(IDS),
        draw(st.sampled_from(Place)),
        cause=draw(st.one_of(st.just(""), IDS, st.just("gone"))),
        kind=draw(st.sampled_from([PLACED, RESERVED, OPENED])),
        source=source,
        time=draw(TIMES),
        offset=draw(st.integers(0, 9)),
        position=draw(st.integers(1, 9)) if source.endswith(("1", "2")) else 0,
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(sightings(), min_size=1, max_size=12), st.lists(sightings(), max_size=4), st.randoms(), st.integers())
def test_any_order_of_any_facts_is_the_same_sequence(
    facts: list[Sighting], letters: list[Sighting], random: Random, watermark: int
) -> None:
    asides = tuple(set_aside(each.message, number=number) for number, each in enumerate(letters))
    readers = [
        subscriber("customers", PLACED, OPENED, letters=asides),
        subscriber("orders", RESERVED, checkpoint=Checkpoint(4, 1, {"customers/e1": watermark})),
    ]
    events = sequence_of(facts, readers)
    mixed = [*facts, *random.choices(facts, k=3)]
    random.shuffle(mixed)
    random.shuffle(readers)
    assert sequence_of(mixed, readers) == events
    assert [each.number for each in events] == list(range(1, len(events) + 1))
    assert {each.id for each in events} == {each.message.id for each in [*facts, *letters]}
    assert as_text("flow", events)
    assert as_mermaid(events)
    for each in events:
        assert each.because_of is None or each.because_of < each.number
        assert (each.cause is Cause.EVENT) == (each.because_of is not None)
        if each.because_of is not None:
            assert events[each.because_of - 1].id == each.causation_id
        for reaction in each.reactions:
            assert all(events[number - 1].because_of == each.number for number in reaction.published)
