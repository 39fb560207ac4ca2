"""Publishing: what a step refuses, and what it puts into the outbox."""

from __future__ import annotations

from typing import Any

import pytest

from ensue import Event, Step, UsageError
from ensue.codec import decode_envelope
from ensue.engine.clock import UniqueIds
from ensue.step import Outgoing


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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Paid, r"Paid is a class: publish an object of it, Paid\(\.\.\.\)"),
        ({"payer": "ada"}, "a dict is no event"),
        (Paid(payer="ada", pence="5"), r"Paid cannot be published: Expected `int`, got `str` - at `\$.pence`"),  # type: ignore[arg-type]
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
