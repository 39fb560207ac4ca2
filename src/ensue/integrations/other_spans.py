"""Spans of what is no processing of messages: events of a session of the user's own, and outside functions of sagas."""

from __future__ import annotations

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Span

from ensue.integrations.careful_spans import begin, end
from ensue.integrations.span_contexts import as_carrier, context_of, fail, is_sampled
from ensue.integrations.span_maker import SpanMaker, end_create
from ensue.tracing import Carrier


class Draft:
    """The `create` span of an event begins where that is published, and ends when it is written, which gives it its id.
    Of one that is rolled back the span never ends, so nobody is told of it."""

    def __init__(self, span: Span, parent: Carrier) -> None:
        context = span.get_span_context()
        # Where no SDK is, what came goes on.
        self.carrier = as_carrier(context) if context.is_valid else parent
        self._span = span

    def written(self, message_id: str) -> None:
        end_create(self._span, message_id)


class Attempt:
    """One call of an outside function. It runs in the context of its span, or in that of what has asked for it, where
    that is not sampled."""

    def __init__(
        self, maker: SpanMaker, function: str, key: str, attempt: int, correlation_id: str, parent: Carrier
    ) -> None:
        self._maker = maker
        self._context = context_of(parent)
        self._span: Span | None = None
        if is_sampled(parent.traceparent):
            attributes: dict[str, str | int] = {
                "ensue.handler": function,
                "ensue.effect": key,
                "ensue.attempt": attempt,
                "messaging.message.conversation_id": correlation_id,
            }
            self._span = begin(maker.tracer, f"outside {function}", self._context, attributes=attributes)
            self._context = trace.set_span_in_context(self._span, self._context)

    def __enter__(self) -> None:
        self._before = contexts.get_current()
        contexts.attach(self._context)

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        contexts.attach(self._before)
        if self._span is not None:
            if error is not None:
                fail(self._span, error)
            end(self._span)

    def failed(self, error: BaseException) -> None:
        if self._span is not None:
            fail(self._span, error)

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        if self._span is None or not self._span.get_span_context().is_valid:
            return parent
        return self._maker.create_in(self._context, topic, kind, message_id, correlation_id)
