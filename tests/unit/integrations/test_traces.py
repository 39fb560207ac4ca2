"""Spans of OpenTelemetry: what each is, what hangs on it, and that nothing is begun where nothing is sampled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.spans import Spans, id_of, trace_of

import ensue.testing
from ensue import EngineConfig, Event, Origin, Retry, Saga, Service, Step, UsageError, coming_from
from ensue.engine.ask import ResendRequest
from ensue.engine.metric import STEP_ROLLBACKS
from ensue.engine.resend import Resender
from ensue.integrations.fastapi import install, step_of
from ensue.integrations.opentelemetry import OpenTelemetry
from ensue.integrations.processing_spans import LINKS_MAX
from ensue.message import Message

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"


class SpanBegun(Event, topic="span-begun", key="number"):
    number: int
    fails: bool = False


class SpanFollowed(Event, topic="span-followed", key="number"):
    number: int


class SpanBase(DeclarativeBase):
    pass


class Counted(SpanBase):
    __tablename__ = "span_counted"
    number: Mapped[int] = mapped_column(primary_key=True)
    times: Mapped[int]


def traced(spans: Spans, **options: Any) -> OpenTelemetry:
    return OpenTelemetry(tracer_provider=spans.provider, **options)


def of(span: Any, name: str) -> Any:
    return (span.attributes or {}).get(name)


def is_sampled(message: Message) -> bool:
    """By the lowest bit of the flags; the next one says how the trace's id was made."""
    return bool(int(message.envelope.traceparent[-2:], 16) & 1)


async def messages(world: ensue.testing.World, topic: str) -> Sequence[Message]:
    return await world.messages(topic)


def two(spans: Spans, **options: Any) -> tuple[Service, Service]:
    """One that publishes, and one that follows: plainly, and with an entity."""
    first = Service("spanfirst", tracing=traced(spans, **options))
    second = Service("spansecond", tables=SpanBase.metadata, tracing=traced(spans, **options))

    @second.on
    def count(counted: Counted | None, event: SpanBegun, step: Step) -> Counted:
        if event.fails:
            raise ValueError("a secret of the customer's")
        step.publish(SpanFollowed(number=event.number))
        return counted or Counted(number=event.number, times=1)

    return first, second


async def test_a_step_and_what_it_publishes_are_spans_with_the_conventions_attributes() -> None:
    spans = Spans()
    first, second = two(spans)
    async with ensue.testing.run(first, second, partitions=1) as world:
        async with first.step() as step:
            message_id = step.publish(SpanBegun(number=1))
        await world.settle()
        [message] = await messages(world, "span-begun")
    begun, created = spans.one("step spanfirst"), spans.one("create span-begun")
    sent, processed = spans.one("send span-begun"), spans.one("process span-begun")
    assert (begun.parent, begun.kind) == (None, SpanKind.INTERNAL)
    assert created.kind is SpanKind.PRODUCER
    assert message.envelope.traceparent[:-2] == f"00-{trace_of(created):032x}-{id_of(created):016x}-"
    assert (message.envelope.extensions, sent.parent, sent.kind) == (None, None, SpanKind.CLIENT)
    common = {"messaging.system": "ensue", "messaging.destination.name": "span-begun"}
    here = {"messaging.destination.partition.id": "0"}
    assert dict(created.attributes or {}) == common | {
        "messaging.operation.name": "create", "messaging.operation.type": "create",
        "messaging.message.id": message_id, "messaging.message.conversation_id": message.correlation_id,
        "cloudevents.event_id": message_id, "cloudevents.event_type": "span-begun.SpanBegun.v1",
    }  # fmt: skip
    assert dict(sent.attributes or {}) == common | here | {
        "messaging.operation.name": "send", "messaging.operation.type": "send", "messaging.batch.message_count": 1,
    }  # fmt: skip
    assert processed.kind is SpanKind.CONSUMER
    assert dict(processed.attributes or {}) == common | here | {
        "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.consumer.group.name": "spansecond",
        "messaging.message.id": message_id, "messaging.message.conversation_id": message.correlation_id,
        "cloudevents.event_id": message_id, "cloudevents.event_type": "span-begun.SpanBegun.v1",
        "cloudevents.event_source": message.source,
        "ensue.attempt": 1, "ensue.position": 1, "ensue.handler": "count",
    }  # fmt: skip
    assert spans.tree(begun) == (
        "- create span-begun\n  ~ process span-begun by spansecond, count\n    - create span-followed\n"
        "      ~ send span-followed\n  ~ send span-begun"
    )


@pytest.mark.parametrize("parent", ["batch", "message"])
async def test_a_batch_is_a_span_with_one_for_each_message_in_it(parent: str) -> None:
    spans = Spans()
    first, second = two(spans, parent=parent)
    async with ensue.testing.run(first, second, partitions=1) as world:
        async with first.step() as step:
            for number in range(3):
                step.publish(SpanBegun(number=number))
        await world.settle()
    created, processed = spans.named("create span-begun"), spans.named("process span-begun")
    [batch] = [each for each in processed if of(each, "messaging.batch.message_count") == 3]
    inner = [each for each in processed if each is not batch]
    assert (batch.parent, of(batch, "messaging.message.id")) == (None, None)
    assert [link.context.span_id for link in batch.links] == [id_of(each) for each in created]
    assert [of(each, "ensue.position") for each in inner] == [1, 2, 3]
    ends = [
        [*([each.parent.span_id] if each.parent else []), *(link.context.span_id for link in each.links)]
        for each in inner
    ]
    by_batch = [[id_of(batch), id_of(each)] for each in created]
    assert ends == (by_batch if parent == "batch" else [each[::-1] for each in by_batch])
    follows = {each.parent.span_id for each in spans.named("create span-followed") if each.parent}
    assert follows == {id_of(each) for each in inner}
    assert [of(each, "messaging.batch.message_count") for each in spans.named("send span-begun")] == [3]


async def test_links_beyond_those_that_a_span_keeps_are_counted() -> None:
    spans = Spans()
    first, second = two(spans)
    unhurried = EngineConfig(batch_s=60.0)
    async with ensue.testing.run(first, second, partitions=1, engine=unhurried) as world:
        for count in (64, LINKS_MAX + 2):  # the relay reads so few at first, and then more
            async with first.step() as step:
                for number in range(count):
                    step.publish(SpanBegun(number=number))
            await world.settle()
    batches = [each for each in spans.ended if of(each, "messaging.batch.message_count") == LINKS_MAX + 2]
    assert {each.name for each in batches} >= {"process span-begun", "send span-begun"}
    assert {(len(each.links), of(each, "ensue.links.omitted")) for each in batches} == {(LINKS_MAX, 2)}


async def test_a_message_that_fails_is_an_error_at_each_attempt_and_a_dead_letter_at_the_last() -> None:
    spans = Spans()
    first, second = two(spans)
    engine = EngineConfig(retry=Retry(attempts_max=3))
    async with ensue.testing.run(first, second, partitions=1, engine=engine) as world:
        async with first.step() as step:
            step.publish(SpanBegun(number=1, fails=True))
        await world.settle()
        [letter] = await world.dead_letters(second)
    tries = spans.named("process span-begun")
    assert [of(each, "ensue.attempt") for each in tries] == [1, 2, 3]
    assert [(each.status.status_code, of(each, "error.type")) for each in tries] == [
        (StatusCode.ERROR, "ValueError")
    ] * 3
    events = [[(event.name, dict(event.attributes or {})) for event in each.events] for each in tries]
    assert events == [[], [], [("ensue.dead_letter", {"ensue.dead_letter.id": letter.id})]]
    assert "secret" not in "".join(each.to_json() for each in spans.ended)


async def test_a_dead_letter_at_the_first_attempt_is_on_that_attempts_span() -> None:
    spans = Spans()
    first, second = two(spans)
    engine = EngineConfig(retry=Retry(never=(ValueError,)))
    async with ensue.testing.run(first, second, partitions=1, engine=engine) as world:
        async with first.step() as step:
            step.publish(SpanBegun(number=1, fails=True))
        await world.settle()
    assert [event.name for event in spans.one("process span-begun").events] == ["ensue.dead_letter"]


async def test_a_batch_with_one_that_fails_says_so_and_is_done_again_in_parts() -> None:
    spans = Spans()
    first, second = two(spans)
    engine = EngineConfig(retry=Retry(never=(ValueError,)))
    async with ensue.testing.run(first, second, partitions=1, engine=engine) as world:
        async with first.step() as step:
            for number in range(3):
                step.publish(SpanBegun(number=number, fails=number == 1))
        await world.settle()
        assert len(await messages(world, "span-followed")) == 2
    batch = [each for each in spans.named("process span-begun") if of(each, "messaging.batch.message_count") == 3]
    assert [each.status.status_code for each in batch] == [StatusCode.ERROR]
    alone = [each for each in spans.named("process span-begun") if each.parent is None and each not in batch]
    assert [(of(each, "ensue.position"), each.status.status_code) for each in alone] == [
        (1, StatusCode.UNSET), (2, StatusCode.ERROR), (3, StatusCode.UNSET)
    ]  # fmt: skip


async def test_what_is_done_again_within_one_attempt_says_so_and_is_no_error() -> None:
    """An entity step that asks for the session in the middle of a batch is called again, alone."""
    spans = Spans()
    first = Service("spanfirst", tracing=traced(spans))
    second = Service("spansecond", tables=SpanBase.metadata, tracing=traced(spans))

    @second.on
    async def count(counted: Counted | None, event: SpanBegun, step: Step) -> Counted:
        await step.session.flush()
        return counted or Counted(number=event.number, times=1)

    async with ensue.testing.run(first, second, partitions=1) as world:
        async with first.step() as step:
            for number in range(2):
                step.publish(SpanBegun(number=number))
        await world.settle()
    processed = spans.named("process span-begun")
    [batch] = [each for each in processed if of(each, "messaging.batch.message_count")]
    assert [(event.name, dict(event.attributes or {})) for event in batch.events] == [
        ("ensue.again", {"ensue.times": 2})
    ]
    assert [of(each, "ensue.position") for each in processed if each is not batch] == [1, 1, 2]
    assert {each.status.status_code for each in processed} == {StatusCode.UNSET}


async def test_where_nothing_is_sampled_no_span_is_begun_and_the_context_goes_on() -> None:
    spans = Spans(ParentBased(ALWAYS_OFF))
    first, second = two(spans)
    within: list[Any] = []

    @second.on
    async def look(event: SpanFollowed) -> None:
        within.append(trace.get_current_span().get_span_context())

    async with ensue.testing.run(first, second, partitions=1) as world:
        async with first.step() as step:
            step.publish(SpanBegun(number=1))
        await world.settle()
        [one], [followed] = await messages(world, "span-begun"), await messages(world, "span-followed")
    assert spans.ended == []
    assert not is_sampled(one)
    assert followed.envelope.traceparent == one.envelope.traceparent
    # What a handler begins is not sampled either, since its parent is not.
    assert [f"{each.trace_id:032x}" for each in within] == [one.envelope.traceparent[3:35]]
    assert not within[0].trace_flags.sampled


async def test_of_a_batch_only_those_that_are_sampled_have_spans() -> None:
    spans = Spans()
    first, second = two(spans)
    async with ensue.testing.run(first, second, partitions=1) as world:
        for number, parent in enumerate((PARENT, UNSAMPLED, PARENT)):
            with coming_from(Origin(traceparent=parent)):
                async with first.step() as step:
                    step.publish(SpanBegun(number=number))
        await world.settle()
        found = await messages(world, "span-followed")
    positions = [of(each, "ensue.position") for each in spans.named("process span-begun")]
    assert [each for each in positions if each] == [1, 3]
    assert [is_sampled(each) for each in found] == [True, False, True]
    assert found[1].envelope.traceparent[:35] == UNSAMPLED[:35]
    assert len(spans.named("create span-begun")) == 2


async def test_an_application_without_an_sdk_hands_on_the_context_that_came() -> None:
    """As it is where nobody has called `set_tracer_provider`."""
    first = Service("spanfirst", tracing=OpenTelemetry(tracer_provider=trace.NoOpTracerProvider()))
    second = Service("spansecond", tracing=OpenTelemetry(tracer_provider=trace.NoOpTracerProvider()))

    @second.on
    async def follow(event: SpanBegun, step: Step) -> None:
        step.publish(SpanFollowed(number=event.number))

    async with ensue.testing.run(first, second, partitions=1) as world:
        with coming_from(Origin(traceparent=PARENT)):
            async with first.step() as step:
                step.publish(SpanBegun(number=1))
        await world.settle()
        [one], [followed] = await messages(world, "span-begun"), await messages(world, "span-followed")
    assert (one.envelope.traceparent, followed.envelope.traceparent) == (PARENT, PARENT)


async def test_tracestate_goes_along_as_an_extension_of_cloudevents() -> None:
    spans = Spans()
    first, second = two(spans)
    came = TraceContextTextMapPropagator().extract({"traceparent": PARENT, "tracestate": "rojo=00f067aa0ba902b7"})
    async with ensue.testing.run(first, second, partitions=1) as world:
        with trace.use_span(trace.get_current_span(came)):
            async with first.step() as step:
                step.publish(SpanBegun(number=1), {"tenant": "a"})
        await world.settle()
        [one], [followed] = await messages(world, "span-begun"), await messages(world, "span-followed")
    assert one.envelope.extensions == {"tenant": "a", "tracestate": "rojo=00f067aa0ba902b7"}
    assert one.envelope.traceparent[3:35] == PARENT[3:35]
    link = spans.one("process span-begun").links[0]
    assert link.context.trace_state.to_header() == "rojo=00f067aa0ba902b7"
    assert followed.envelope.extensions is None  # the message's span is of another trace, that has none


async def test_a_span_of_the_users_own_is_between_a_handler_and_what_it_publishes() -> None:
    spans = Spans()
    first, second = Service("spanfirst", tracing=traced(spans)), Service("spansecond", tracing=traced(spans))
    tracer = spans.provider.get_tracer("mine")

    @second.on
    def in_a_thread(event: SpanBegun, step: Step) -> None:
        with tracer.start_as_current_span("thread"):
            step.publish(SpanFollowed(number=event.number))

    @second.on
    async def on_the_loop(event: SpanBegun, step: Step) -> None:
        with tracer.start_as_current_span("loop"):
            step.publish(SpanFollowed(number=event.number))

    async with ensue.testing.run(first, second, partitions=1) as world:
        async with first.step() as step:
            step.publish(SpanBegun(number=1))
        await world.settle()
    assert spans.tree(spans.one("create span-begun")) == (
        "~ process span-begun by spansecond, in_a_thread, on_the_loop\n"
        "  - loop\n    - create span-followed\n      ~ send span-followed\n"
        "  - thread\n    - create span-followed\n      ~ send span-followed\n"
        "~ send span-begun"
    )


async def rolled_back(service: Service) -> None:
    async with service.step() as step:
        step.publish(SpanBegun(number=1))
        raise ValueError("a secret of the customer's")


async def test_a_step_that_is_rolled_back_is_an_error_and_another_one_is_not_inside_of_it() -> None:
    spans = Spans()
    first, _ = two(spans)
    async with ensue.testing.run(first, partitions=1) as world:
        with pytest.raises(ValueError, match="secret"):
            await rolled_back(first)
        async with first.step() as step:
            step.publish(SpanBegun(number=2))
        await world.settle()
    failed, done = spans.named("step spanfirst")
    assert (failed.status.status_code, of(failed, "error.type")) == (StatusCode.ERROR, "ValueError")
    assert (done.status.status_code, done.parent) == (StatusCode.UNSET, None)
    assert len(spans.named("send span-begun")) == 1
    assert "secret" not in "".join(each.to_json() for each in spans.ended)


async def test_a_request_without_a_span_of_its_own_gives_its_traceparent_to_its_step() -> None:
    spans = Spans()
    service = Service("spanfirst", tracing=traced(spans))
    app = FastAPI()
    install(app, service)

    @app.post("/begin")
    def begin(step: Step = step_of(service)) -> None:  # in a thread
        step.publish(SpanBegun(number=1))

    async with ensue.testing.run(service):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://first") as client:
            came = {"traceparent": PARENT, "tracestate": "rojo=1"}
            assert (await client.post("/begin", headers=came)).status_code == 200
    begun, created = spans.one("step spanfirst"), spans.one("create span-begun")
    assert begun.parent is not None
    assert created.parent is not None
    assert f"{begun.parent.span_id:016x}" == PARENT[36:52]
    assert created.context is not None
    assert created.context.trace_state.to_header() == "rojo=1"
    assert created.parent.span_id == id_of(begun)


async def test_a_request_that_was_answered_before_is_no_error_and_one_that_is_answered_5xx_publishes_nothing() -> None:
    spans = Spans()
    service = Service("spanfirst", tracing=traced(spans))
    app = FastAPI()
    install(app, service)

    @app.post("/begin")
    async def begin(response: Response, number: int, step: Step = step_of(service)) -> None:
        step.publish(SpanBegun(number=number))
        response.status_code = 200 if number == 1 else 503

    async with ensue.testing.run(service) as world:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://first") as client:
            for _ in range(2):
                assert (await client.post("/begin?number=1", headers={"Idempotency-Key": "k"})).status_code == 200
            assert (await client.post("/begin?number=2")).status_code == 503
        await world.settle()
        assert len(await messages(world, "span-begun")) == 1
    assert [each.status.status_code for each in spans.named("step spanfirst")] == [StatusCode.UNSET] * 3
    rollbacks = world.runtimes["spanfirst"].context.measured.counts[STEP_ROLLBACKS]
    assert rollbacks == {("Refused",): 1}


async def test_a_saga_goes_on_in_the_trace_of_what_has_woken_it() -> None:
    spans = Spans()
    service = Service("spansagas", tracing=traced(spans))

    @service.local
    def note(event: int, step: Step) -> None:
        step.publish(SpanFollowed(number=event))

    @service.saga
    async def take(saga: Saga, request: SpanBegun) -> None:
        await saga.local(note, request.number, undo=None)

    async with ensue.testing.run(service, partitions=1) as world:
        async with service.step() as step:
            step.start(take, SpanBegun(number=1), id="1")
        await world.settle()
    begun, _ = spans.named("step spansagas")
    assert spans.tree(begun) == (
        "- create spansagas.replies\n"
        "  ~ process spansagas.replies by spansagas\n"
        "  ~ send spansagas.replies\n"
        "  - step spansagas, note\n"
        "    - create span-followed\n"
        "      ~ send span-followed"
    )


async def test_records_that_are_sent_again_are_spans_that_say_so() -> None:
    spans = Spans()
    first, second = two(spans)
    async with ensue.testing.run(first, second, partitions=1) as world:
        async with first.step() as step:
            step.publish(SpanBegun(number=1))
        await world.settle()
        context = world.runtimes["spanfirst"].context

        async def compare() -> None: ...

        resender = Resender(context, asyncio.Lock(), lambda where: 1, lambda where: True, compare)
        await resender.answer(ResendRequest(context.store.source, "span-begun", 0, 0, 1, "spansecond"))
    sent, again = spans.named("send span-begun")
    assert (of(sent, "ensue.resent"), of(again, "ensue.resent")) == (None, True)
    created = id_of(spans.one("create span-begun"))
    assert [[link.context.span_id for link in each.links] for each in (sent, again)] == [[created]] * 2


async def test_outside_functions_of_a_saga_are_spans_and_what_comes_of_them_hangs_on_them() -> None:
    spans = Spans()
    service = Service("spansagas", tracing=traced(spans))
    inside: list[int] = []

    @service.outside
    async def charge(number: int) -> int:
        inside.append(trace.get_current_span().get_span_context().span_id)
        if len(inside) == 1:
            raise ValueError("a secret of the customer's")
        return number

    @service.saga
    async def take(saga: Saga, request: SpanBegun) -> None:
        await saga.outside(charge, request.number, undo=None, attempts=2)

    async with ensue.testing.run(service, partitions=1) as world:
        async with service.step() as step:
            step.start(take, SpanBegun(number=1), id="1")
        await world.settle()
        await world.advance(seconds=5)
        await world.settle()
    failed, done = spans.named("outside charge")
    assert inside == [id_of(failed), id_of(done)]
    assert [of(each, "ensue.attempt") for each in (failed, done)] == [1, 2]
    assert of(failed, "ensue.effect") == of(done, "ensue.effect") == "spansagas:take:1:1"
    assert [each.status.status_code for each in (failed, done)] == [StatusCode.ERROR, StatusCode.UNSET]
    assert of(failed, "error.type") == "ValueError"
    assert "secret" not in "".join(each.to_json() for each in spans.ended)
    begun = spans.one("step spansagas")
    assert {trace_of(each) for each in (begun, failed)} == {trace_of(begun)}
    told = [
        each for each in spans.named("create spansagas.replies") if each.parent and each.parent.span_id == id_of(done)
    ]
    assert len(told) == 1


async def test_an_outside_function_of_a_saga_that_is_not_sampled_begins_nothing() -> None:
    spans = Spans(ParentBased(ALWAYS_OFF))
    service = Service("spansagas", tracing=traced(spans))
    within: list[Any] = []

    @service.outside
    async def charge(number: int) -> int:
        within.append(trace.get_current_span().get_span_context())
        return number

    @service.saga
    async def take(saga: Saga, request: SpanBegun) -> None:
        await saga.outside(charge, request.number, undo=None)

    async with ensue.testing.run(service, partitions=1) as world:
        async with service.step() as step:
            step.start(take, SpanBegun(number=1), id="1")
        await world.settle()
        woken = [each.envelope.traceparent for each in await messages(world, "spansagas.replies")]
    assert spans.ended == []
    assert len(woken) == 2
    assert {each[3:35] for each in woken} == {f"{within[0].trace_id:032x}"}
    assert not within[0].trace_flags.sampled


async def test_handlers_are_not_inside_of_the_span_in_which_their_service_was_started() -> None:
    """Of messages that nobody traces, as of others: that span has long ended."""
    spans = Spans()
    first, second = Service("spanfirst"), Service("spansecond", tracing=traced(spans))
    seen: list[bool] = []

    @second.on
    async def look(event: SpanBegun) -> None:
        seen.append(trace.get_current_span().get_span_context().is_valid)

    with spans.provider.get_tracer("mine").start_as_current_span("startup"):
        started = ensue.testing.run(first, second, partitions=1)
        world = await started.__aenter__()
    try:
        async with first.step() as step:
            step.publish(SpanBegun(number=1))
        await world.settle()
    finally:
        await started.__aexit__(None, None, None)
    assert seen == [False]


class Failing(SpanProcessor):
    """Fails with each span that begins, or that ends."""

    def __init__(self, when: str) -> None:
        self._when = when

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if self._when == "begins":
            raise RuntimeError("no more memory for spans")

    def on_end(self, span: ReadableSpan) -> None:
        if self._when == "ends":
            raise RuntimeError("no more memory for spans")


@pytest.mark.parametrize("when", ["begins", "ends"])
async def test_a_span_processor_that_fails_takes_no_work_along(when: str, caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans()
    spans.provider.add_span_processor(Failing(when))
    first, second = two(spans)
    async with ensue.testing.run(first, second, partitions=1) as world:
        with coming_from(Origin(traceparent=PARENT)):
            async with first.step() as step:
                for number in range(3):
                    step.publish(SpanBegun(number=number, fails=number == 2))
        await world.settle()
        begun, followed = await messages(world, "span-begun"), await messages(world, "span-followed")
        letters = await world.dead_letters(second)
    assert (len(begun), len(followed), len(letters)) == (3, 2, 1)
    assert {each.envelope.traceparent[3:35] for each in begun} == {PARENT[3:35]}
    assert "span processor has failed" in caplog.text


def test_what_a_span_may_hang_on_is_said_by_name() -> None:
    with pytest.raises(UsageError, match='expected "batch" or "message"'):
        OpenTelemetry(parent="link")  # type: ignore[arg-type]
