"""Publishing: what a step refuses, and what it puts into the outbox."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ensue import Event, Step, UsageError
from ensue.codec import KEY_BYTES_MAX, decode_envelope
from ensue.engine.clock import UniqueIds
from ensue.errors import EventRefused, EventTooLarge
from ensue.outgoing import Outgoing


class Paid(Event, topic="t-step", key="payer"):
    payer: str
    pence: int


class Refunded(Event, topic="t-step", key="payer"):
    payer: str


@pytest.fixture
def step() -> Step:
    outgoing = Outgoing("billing", UniqueIds("id"), 4, "2026-11-23T19:00:00Z", {}, frozenset({Paid}))
    return Step(None, outgoing, None, "flow-1")  # type: ignore[arg-type]  # publishing needs no transaction


def test_a_published_event_is_a_record_with_its_envelope(step: Step) -> None:
    assert step.publish(Paid(payer="ada", pence=5), {"region": "north"}) == "id-1"
    [record] = step.outgoing.records
    envelope = decode_envelope(record.envelope)
    assert (record.topic, record.key, record.data) == ("t-step", "ada", b'{"payer":"ada","pence":5}')
    assert (envelope.id, envelope.type, envelope.correlation_id) == ("id-1", "t-step.Paid.v1", "flow-1")
    assert envelope.extensions == {"region": "north"}


def test_a_step_knows_the_time_that_its_events_bear(step: Step) -> None:
    assert step.now == datetime(2026, 11, 23, 19, tzinfo=UTC)
    assert step.now.tzinfo is UTC


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Paid, r"Paid is a class: publish an object of it, Paid\(\.\.\.\)"),
        ({"payer": "ada"}, "a dict is no event"),
        (
            Paid(payer="ada", pence="5"),  # type: ignore[arg-type]
            r"Paid cannot be published, its field pence: Expected `int`, got `str` - at `\$.pence`",
        ),
        (Refunded(payer="ada"), "publishes Refunded, which its declaration leaves out"),
    ],
)
def test_what_cannot_be_published_is_refused_and_nothing_is_recorded(step: Step, wrong: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        step.publish(wrong)
    assert step.outgoing.records == []


def test_publishing_after_the_step_has_ended_is_refused(step: Step) -> None:
    step.publish(Paid(payer="ada", pence=5))
    assert len(step.outgoing.close()) == 1
    with pytest.raises(UsageError, match="Paid is published after its step has ended"):
        step.publish(Paid(payer="ada", pence=5))


def test_steps_that_nobody_tries_again_have_keys_of_their_own(step: Step) -> None:
    other = Step(None, step.outgoing, None, "flow-1")  # type: ignore[arg-type]
    assert step.idempotency_key == step.idempotency_key != other.idempotency_key
    keyed = Step(None, step.outgoing, None, "flow-1", idempotency_key="k")  # type: ignore[arg-type]
    assert keyed.idempotency_key == "k"


@pytest.mark.parametrize("extensions", [{"Region": "x"}, {"my-region": "x"}, {"source": "x"}, {"region": 5}])
def test_an_extension_that_is_no_cloudevents_attribute_is_refused(step: Step, extensions: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="extension"):
        step.publish(Paid(payer="ada", pence=5), extensions)
    assert step.outgoing.records == []


@pytest.mark.parametrize(
    ("key", "expected", "found"),
    [
        ("k" * (KEY_BYTES_MAX + 1), "at most 1024 bytes of UTF-8", "1025 bytes"),
        ("é" * (KEY_BYTES_MAX // 2 + 1), "at most 1024 bytes of UTF-8", "1026 bytes"),
        ("a\0b", "text without NUL characters", "a NUL character"),
        ("a\ud800", "text that UTF-8 can carry", "a lone surrogate"),
    ],
)
def test_a_key_that_not_every_broker_and_database_takes_is_refused(
    step: Step, key: str, expected: str, found: str
) -> None:
    with pytest.raises(EventRefused) as caught:
        step.publish(Paid(payer=key, pence=5))
    values = caught.value.values
    assert values == {
        "type": "t-step.Paid.v1", "what": "key", "key": key[:60], "expected": expected, "found": found,
    }  # fmt: skip
    assert all(str(values[name]) in str(caught.value) for name in ("type", "expected", "found"))
    assert step.outgoing.records == []


@pytest.mark.parametrize("key", ["", " ", "k" * KEY_BYTES_MAX, "é" * (KEY_BYTES_MAX // 2), "a\nb"])
def test_any_other_key_is_published_as_it_is(step: Step, key: str) -> None:
    step.publish(Paid(payer=key, pence=5))
    assert step.outgoing.records[0].key == key


def test_the_largest_event_is_a_setting_and_counts_key_envelope_and_data() -> None:
    outgoing = Outgoing("billing", UniqueIds("id"), 4, "2026-11-23T19:00:00Z", {}, None, 1_000)
    step = Step(None, outgoing, None, "flow-1")  # type: ignore[arg-type]
    step.publish(Refunded(payer=""))
    [small] = outgoing.records
    room = (1_000 - len(small.envelope) - len(small.data)) // 2  # the key is in the data as well
    step.publish(Refunded(payer="x" * room))
    with pytest.raises(EventTooLarge, match="expected at most 1000") as caught:
        step.publish(Refunded(payer="x" * (room + 1)))
    assert caught.value.expected == 1_000
    assert caught.value.found in (1_001, 1_002)
    assert len(outgoing.records) == 2


@pytest.mark.parametrize(
    ("extensions", "kind"),
    [
        ({f"e{number}": "x" for number in range(65)}, UsageError),
        ({"e" * 65: "x"}, UsageError),
        ({"region": "x" * 1_025}, EventTooLarge),
        ({f"e{number}": "x" * 1_024 for number in range(16)}, EventTooLarge),
        ({"region": "a\0b"}, EventRefused),
        ({"region": "\udc00"}, EventRefused),
    ],
)
def test_extensions_that_not_every_broker_carries_are_refused(
    step: Step, extensions: dict[str, str], kind: type[UsageError]
) -> None:
    with pytest.raises(kind) as caught:
        step.publish(Paid(payer="ada", pence=5), extensions)
    assert type(caught.value) is kind
    assert step.outgoing.records == []
