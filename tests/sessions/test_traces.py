"""What is published in a session of the user's own is traced: where it was published, and only if it is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from tests.sessions.desk import TicketOpened, desk_at, engine_at, envelopes
from tests.spans import Spans, id_of, trace_of

from ensue import Origin, Service, coming_from
from ensue.integrations.opentelemetry import OpenTelemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def desk(tmp_path: Path) -> Service:
    return desk_at(f"sqlite:///{tmp_path}/desk.db?synchronous=OFF")


@pytest.fixture
def engine(desk: Service, tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(f"sqlite:///{tmp_path}/desk.db")
    yield engine
    engine.dispose()


def test_an_event_of_a_session_has_its_create_span_in_the_span_at_hand(desk: Service, engine: Engine) -> None:
    spans = Spans()
    desk.tracing = OpenTelemetry(tracer_provider=spans.provider)
    with Session(engine) as session:
        with spans.provider.get_tracer("mine").start_as_current_span("close the shop"):
            desk.publish(session, TicketOpened(ticket_id=1))
        session.commit()
    mine, created = spans.one("close the shop"), spans.one("create desk")
    [envelope] = envelopes(desk)
    assert created.parent is not None
    assert (created.parent.span_id, created.kind) == (id_of(mine), SpanKind.PRODUCER)
    assert envelope.traceparent[:-2] == f"00-{trace_of(created):032x}-{id_of(created):016x}-"
    assert dict(created.attributes or {}) == {
        "messaging.system": "ensue", "messaging.destination.name": "desk",
        "messaging.operation.name": "create", "messaging.operation.type": "create",
        "messaging.message.id": envelope.id, "messaging.message.conversation_id": envelope.correlation_id,
        "cloudevents.event_id": envelope.id, "cloudevents.event_type": "desk.TicketOpened.v1",
    }  # fmt: skip


def test_what_is_rolled_back_is_nobodys_span(desk: Service, engine: Engine) -> None:
    spans = Spans()
    desk.tracing = OpenTelemetry(tracer_provider=spans.provider)
    with Session(engine) as session:
        desk.publish(session, TicketOpened(ticket_id=1))
        with session.begin_nested() as savepoint:
            desk.publish(session, TicketOpened(ticket_id=2))
            savepoint.rollback()
        session.commit()
        desk.publish(session, TicketOpened(ticket_id=3))
        session.rollback()
    created = spans.one("create desk")
    assert (created.attributes or {})["messaging.message.id"] == envelopes(desk)[0].id
    assert created.parent is None


def test_a_requests_context_counts_where_nobody_has_begun_a_trace(desk: Service, engine: Engine) -> None:
    spans = Spans()
    for tracing in (OpenTelemetry(tracer_provider=spans.provider), None):
        desk.tracing = tracing
        with Session(engine) as session, coming_from(Origin(traceparent=PARENT, tracestate="rojo=1")):
            desk.publish(session, TicketOpened(ticket_id=1))
            session.commit()
    created = spans.one("create desk")
    assert created.parent is not None
    assert f"{created.parent.span_id:016x}" == PARENT[36:52]
    told, untold = envelopes(desk)
    assert told.traceparent[:52] == f"00-{trace_of(created):032x}-{id_of(created):016x}"
    assert told.extensions == {"tracestate": "rojo=1"}
    assert untold.traceparent == PARENT


@pytest.mark.parametrize("within", [False, True])
def test_what_a_thread_does_in_its_step_hangs_on_the_steps_span(desk: Service, within: bool) -> None:
    """The SQL of an instrumented engine does, and all else that looks for the current span."""
    spans = Spans()
    desk.tracing = OpenTelemetry(tracer_provider=spans.provider)
    tracer = spans.provider.get_tracer("mine")
    before = trace.get_current_span()
    with tracer.start_as_current_span("request") if within else nullcontext():
        with desk.sync_step() as step:
            step.publish(TicketOpened(ticket_id=1))
            tracer.start_span("SELECT").end()
        tracer.start_span("after").end()
    desk.close()
    assert trace.get_current_span() is before
    [stepped] = spans.named("step desk")
    for name in ("create desk", "SELECT"):
        parent = spans.one(name).parent
        assert parent is not None
        assert parent.span_id == id_of(stepped)
    outer = id_of(spans.one("request")) if within else None
    assert [each.parent and each.parent.span_id for each in (stepped, spans.one("after"))] == [outer, outer]


def test_where_nothing_is_sampled_the_context_goes_on(desk: Service, engine: Engine) -> None:
    for provider, parent in ((Spans(ALWAYS_OFF).provider, False), (trace.NoOpTracerProvider(), True)):
        desk.tracing = OpenTelemetry(tracer_provider=provider)
        with Session(engine) as session, coming_from(Origin(traceparent=PARENT)):
            desk.publish(session, TicketOpened(ticket_id=1))
            session.commit()
        last = envelopes(desk)[-1]
        assert last.traceparent[:35] == PARENT[:35]
        assert (last.traceparent == PARENT) is parent
        assert last.traceparent.endswith("-01") is parent
