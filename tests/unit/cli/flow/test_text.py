"""A flow as text and as a Mermaid diagram; nothing that comes from outside is taken for either's own syntax."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cli.flow.facts import at, message, seen, set_aside, subscriber

from ensue.cli.flow.text import as_text
from ensue.message import Checkpoint, DeadLetterState
from ensue.operations.flow.facts import Place
from ensue.operations.flow.mermaid import as_mermaid, escaped
from ensue.operations.flow.sequence import sequence_of
from ensue.operations.flow.words import after

PLACED, RESERVED, OPENED, OVERDUE = "orders.Placed.v1", "customers.Reserved.v1", "orders.Opened.v1", "billing.Due.v1"
FLOW = [
    seen("a", time=at(1)),
    seen("b", kind=RESERVED, cause="a", source="customers/e1", time=at(1.5), offset=4),
    seen("c", Place.UNSENT, kind=OPENED, cause="b", time=at(2.25), offset=0),
    seen(
        "d", Place.TIMER, kind=OVERDUE, cause="b", source="billing/e1", time="2026-12-11T09:00:01Z", due_at=1796979601
    ),
]
LETTER = set_aside(message("a", time=at(1)), DeadLetterState.RETRYING, "billing", attempts=1, due_at=1795770010.0)
READERS = [
    subscriber("orders", RESERVED, checkpoint=Checkpoint(3, 1, {})),
    subscriber("customers", PLACED),
    subscriber("billing", PLACED, OVERDUE, letters=(LETTER,)),
]


def test_the_text_has_events_times_causes_steps_and_what_is_left() -> None:
    assert as_text("flow", sequence_of(FLOW, READERS)) == [
        "flow flow: 4 events, 3 services",
        "1  2026-11-27 09:00:01.000 UTC  orders publishes orders.Placed.v1, key ann, from outside",
        "     id a, in the log at orders/0 offset 1",
        "     -> billing (on_placed): retrying after 1 try, next 2026-11-27 09:00:10 UTC, dead letter orders/0:1: "
        "KeyError: handler on_placed: 'ann'",
        "     -> customers (on_placed): done, published 2",
        "2  +0.500 s  customers publishes customers.Reserved.v1, key ann, because of 1",
        "     id b, in the log at customers/0 offset 4",
        "     -> billing: done, published 4",
        "     -> orders (on_reserved): done, published 3",
        "3  +1.250 s  orders publishes orders.Opened.v1, key ann, because of 2",
        "     id c, in the outbox of orders, not sent yet",
        "     -> nobody here handles it",
        "4  +14 d 0 h  billing publishes billing.Due.v1, key ann, because of 2",
        "     id d, waits in the database of billing until 2026-12-11 09:00:01 UTC",
        "     -> billing (on_due): not yet: it is not in the log yet",
    ]


def test_what_was_sent_is_said_to_be_missing_only_where_all_of_the_log_was_looked_at() -> None:
    sent = [seen("a", Place.SENT, time=at(1), offset=0)]
    assert as_text("flow", sequence_of(sent, []))[2] == "     id a, sent to orders/0, where it was not found"
    cut = sequence_of(sent, [], cut={("orders", 0)})
    assert as_text("flow", cut)[2] == "     id a, sent to orders/0; not all of orders/0 was looked at"
    assert "not all of orders/0 was looked at" in "\n".join(as_mermaid(cut))
    assert sequence_of([*sent, FLOW[0]], [], cut={("orders", 0)})[0].reason == ""


def test_the_diagram_has_an_arrow_for_each_event_and_service() -> None:
    assert as_mermaid(sequence_of(FLOW, READERS)) == [
        "sequenceDiagram",
        "  actor outside",
        "  participant service1 as billing",
        "  participant service2 as customers",
        "  participant service3 as orders",
        "  outside->>service3: a step",
        "  service3-xservice1: 1 orders.Placed.v1, key ann, 2026-11-27 09:00:01.000 UTC",
        "  Note over service1: on_placed, retrying after 1 try, next 2026-11-27 09#58;00#58;10 UTC, "
        "dead letter orders/0#58;1#58; KeyError#58; handler on_placed#58; #39;ann#39;",
        "  service3->>service2: 1 orders.Placed.v1, key ann, 2026-11-27 09:00:01.000 UTC",
        "  Note over service2: on_placed",
        "  service2->>service1: 2 customers.Reserved.v1, key ann, +0.500 s, because of 1",
        "  Note over service1: a step",
        "  service2->>service3: 2 customers.Reserved.v1, key ann, +0.500 s, because of 1",
        "  Note over service3: on_reserved",
        "  Note over service3: 3 in the outbox of orders, not sent yet",
        "  Note over service3: 3 orders.Opened.v1, key ann, +1.250 s, because of 2, nobody here handles it",
        "  Note over service1: 4 waits in the database of billing until 2026-12-11 09#58;00#58;01 UTC",
        "  service1-->>service1: 4 billing.Due.v1, key ann, +14 d 0 h, because of 2",
        "  Note over service1: on_due, not yet#58; it is not in the log yet",
    ]


def test_a_first_event_without_a_time_is_told() -> None:
    [line, *_] = as_text("flow", sequence_of([seen("a", time="soon")], []))[1:]
    assert "at no known time" in line


@settings(deadline=None)
@given(st.floats(-1e9, 1e9, allow_nan=False))
def test_a_time_after_has_at_most_two_units(seconds: float) -> None:
    assert re.fullmatch(r"[+-](\d+\.\d{3} s|\d+ \w+ \d+ \w+)", after(seconds))


HOSTILE = st.text(st.one_of(st.sampled_from("#;:%{}<>\n\r\x1b\u2028\u202e\\\"'`&-"), st.characters(codec="utf-8")))


@settings(deadline=None)
@given(HOSTILE)
def test_what_is_escaped_has_no_syntax_left(text: str) -> None:
    shown = escaped(text)
    assert all(chr(int(code)).isprintable() for code in re.findall(r"#(\d+);", shown))
    assert shown.isprintable()
    left = re.sub(r"#\d+;", "", shown)
    assert not set(left) & set("#;:%{}<>\n\"'`&\\")


@settings(deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_no_key_type_or_source_adds_a_line_or_an_arrow(key: str, kind: str, source: str) -> None:
    strange = seen("a", source=source, kind=f"t.{kind}", key=key, position=0)
    lines = as_mermaid(sequence_of([strange], []))
    assert len(lines) == 5
    assert [re.match(r"  (actor|participant|\w+->>\w+:|Note over)", line) is not None for line in lines[1:]] == [
        True
    ] * 4
    assert all(line.isprintable() for line in lines)
