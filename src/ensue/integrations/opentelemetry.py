"""Traces of OpenTelemetry: `Service("orders", tracing=OpenTelemetry())`. Needs `pip install "ensue[otel]"`.

Spans and attributes follow the semantic conventions for messaging. Where they go, and how many are sampled, is for the
application's SDK to say; without one nothing is recorded. A span is begun only where the context that it follows from
is sampled. See docs/how-to/traces.md and docs/adr/0051.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any, Literal

from ensue.errors import UsageError, not_installed

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
except ImportError as error:
    raise not_installed("ensue.integrations.opentelemetry", "otel") from error

from opentelemetry.trace import Link, Span, SpanContext, SpanKind

from ensue.integrations.careful_spans import begin, end
from ensue.integrations.other_spans import Attempt, Draft
from ensue.integrations.processing_spans import LINKS_MAX, Batch, One, Unsampled
from ensue.integrations.span_contexts import (
    EMPTY,
    as_carrier,
    context_of,
    creations,
    current,
    ended,
    fail,
    inside,
    none_sampled,
)
from ensue.integrations.span_maker import SpanMaker
from ensue.message import Message, OutboxRecord
from ensue.tracing import Attempted, Carrier, Drafted, Processing, Stepping, Tracing

__all__ = ["OpenTelemetry"]

_NOTHING: AbstractContextManager[Any] = nullcontext()


class OpenTelemetry:
    """parent: of a message's span. "batch": the span of the batch that it came in, linked with the message's creation;
    one order is then several traces with links between them. "message": its creation, linked with its batch; one order
    is one trace, which is what to take where not all are sampled.
    tracer_provider: else the process's (`opentelemetry.trace.set_tracer_provider`), whenever that is set.
    """

    def __init__(
        self,
        *,
        parent: Literal["batch", "message"] = "batch",
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        if parent not in ("batch", "message"):
            raise UsageError(f'OpenTelemetry(parent={parent!r}): expected "batch" or "message"')
        self._by_message = parent == "message"
        self._provider = tracer_provider

    def of(self, service: str, system: str) -> Tracing:
        tracer = trace.get_tracer("ensue", version("ensue"), self._provider)
        return _Tracing(SpanMaker(tracer, service, system, by_message=self._by_message))


class _Tracing:
    """Of one service."""

    def __init__(self, maker: SpanMaker) -> None:
        self._maker = maker

    @contextmanager
    def step(self, parent: Carrier) -> Iterator[Stepping | None]:
        within = contexts.get_current()
        if not trace.get_current_span(within).get_span_context().is_valid:
            within = context_of(parent)
        span = begin(self._maker.tracer, f"step {self._maker.service}", within, SpanKind.INTERNAL)
        with ended(span), current(span, within):
            yield _Step(self._maker, span)

    def draft(self, topic: str, kind: str, correlation_id: str, parent: Carrier) -> Drafted | None:
        within = contexts.get_current()
        if not trace.get_current_span(within).get_span_context().is_valid:
            within = context_of(parent)
        return Draft(self._maker.start_create(within, topic, kind, correlation_id), parent)

    def outside(self, function: str, key: str, attempt: int, correlation_id: str, parent: Carrier) -> Attempted | None:
        if not (parent.traceparent or contexts.get_current()):
            return None
        return Attempt(self._maker, function, key, attempt, correlation_id, parent)

    @contextmanager
    def _sending(self, spans: Sequence[Span]) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            for span in spans:
                fail(span, error)
            raise
        finally:
            for span in spans:
                end(span)

    def send(
        self, batches: Mapping[tuple[str, int], Sequence[OutboxRecord]], *, again: bool = False
    ) -> AbstractContextManager[Any]:
        links: dict[str, list[SpanContext]] = {}
        for (topic, _), records in batches.items():
            if found := creations(records):
                links.setdefault(topic, []).extend(found)
        if not links:
            return _NOTHING
        spans = [self._send_span(topic, created, batches) for topic, created in links.items()]
        if again:
            for span in spans:
                span.set_attribute("ensue.resent", True)
        return self._sending(spans)

    def _send_span(
        self, topic: str, created: Sequence[SpanContext], batches: Mapping[tuple[str, int], Sequence[OutboxRecord]]
    ) -> Span:
        counts = {number: len(records) for (name, number), records in batches.items() if name == topic}
        attributes = self._maker.attributes("send", topic) | {"messaging.batch.message_count": sum(counts.values())}
        if len(counts) == 1:
            attributes["messaging.destination.partition.id"] = str(*counts)
        links = [Link(each) for each in created[:LINKS_MAX]]
        span = begin(self._maker.tracer, f"send {topic}", EMPTY, SpanKind.CLIENT, attributes, links)
        if len(created) > LINKS_MAX:
            span.set_attribute("ensue.links.omitted", len(created) - LINKS_MAX)
        return span

    def process(self, messages: Sequence[Message], attempt: int = 1) -> Processing | None:
        if none_sampled(messages):
            # Also where none has a context, if the loops have one: that of whatever the service was started in.
            return Unsampled(messages) if messages[0].envelope.traceparent or contexts.get_current() else None
        return One(self._maker, messages[0], attempt) if len(messages) == 1 else Batch(self._maker, messages)


class _Step:
    """A step that began outside."""

    def __init__(self, maker: SpanMaker, span: Span) -> None:
        self._maker = maker
        self._span = span
        context = span.get_span_context()
        # Of a span that is not sampled, or where no SDK is and something has come all the same: what goes on.
        self._goes_on = as_carrier(context) if context.is_valid and not span.is_recording() else None

    def here(self) -> AbstractContextManager[None]:
        return current(self._span, contexts.get_current())

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        if not self._span.is_recording():
            return self._goes_on or parent
        return self._maker.create_in(inside(self._span), topic, kind, message_id, correlation_id)
