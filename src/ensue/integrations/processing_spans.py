"""Spans of messages that are processed: of one alone, of a batch and those in it; and what is there without any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind

from ensue.failure import failure_in
from ensue.integrations.careful_spans import begin, end
from ensue.integrations.span_contexts import EMPTY, carrier_of, context_of, fail, inside, is_sampled, links_to
from ensue.integrations.span_maker import SpanMaker
from ensue.message import TRACESTATE, Message
from ensue.step import SessionAsked
from ensue.tracing import Carrier

#: As many links as an SDK keeps of one span unless it is told otherwise.
LINKS_MAX: Final = 128


class Unsampled:
    """Messages of which none is sampled: what their handlers begin is not either, and goes on with their context."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._context = context_of(carrier_of(messages[0]))
        # Only then is there more to hand on than what goes on by itself.
        extensions = [each.envelope.extensions for each in messages if each.envelope.extensions is not None]
        self.told = any(TRACESTATE in each for each in extensions)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        return parent

    @contextmanager
    def working(self) -> Iterator[None]:
        before = contexts.get_current()
        contexts.attach(self._context)
        try:
            yield
        finally:
            contexts.attach(before)

    def message(self, message: Message, handlers: Sequence[str], *, local: bool) -> None: ...

    def applied(self, messages: Sequence[Message]) -> None: ...

    def failed(self, error: BaseException, *, dead_letter: str = "") -> None: ...


class _Sampled:
    """What the processing of one message, and that of several, have in common: `span`, from the first to the last."""

    told = True

    def __init__(self, maker: SpanMaker, span: Span) -> None:
        self._maker = maker
        self._span = span
        self._attempts = 0
        self._open: Message | None = None  # whose handlers are at work
        self._inner: Span | None = None  # of that message, or of a local step

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if error is not None:
            self.failed(error)
        end(self._span)

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        if self._open is not None and self._open.envelope.traceparent == parent.traceparent:
            inner = self._inner or self._span
            if not inner.is_recording():
                return parent
            return self._maker.create_in(inside(inner), topic, kind, message_id, correlation_id)
        # A saga publishes at no message's turn: it goes on from what has woken it.
        if not is_sampled(parent.traceparent):
            return parent
        return self._maker.create_in(context_of(parent), topic, kind, message_id, correlation_id)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._attempts += 1
        if self._attempts > 1:
            self._span.add_event("ensue.again", {"ensue.times": self._attempts})
        before = contexts.get_current()
        contexts.attach(trace.set_span_in_context(self._span, EMPTY))
        try:
            yield
        except BaseException as error:
            self._close(error)
            raise
        finally:
            self._close(None)
            contexts.attach(before)

    def _close(self, error: BaseException | None) -> None:
        """The turn of a message is over."""
        inner, self._inner, self._open = self._inner, None, None
        if inner is not None:
            cause = getattr(error, "error", error)  # of a StepFailed, what its handler failed with
            # A Failure is an answer, and who asked for the session is called again at once with it.
            if cause is not None and not isinstance(cause, SessionAsked) and failure_in(cause) is None:
                fail(inner, cause)
            end(inner)

    def message(self, message: Message, handlers: Sequence[str], *, local: bool) -> None:
        if self._open is message:
            return  # the next of its handlers
        self._close(None)
        self._open = message
        if local:
            self._inner = begin(
                self._maker.tracer,
                f"step {self._maker.service}",
                context_of(carrier_of(message)),
                attributes={"ensue.handler": ", ".join(handlers)},
            )
        else:
            self._begin(message, handlers)
        contexts.attach(trace.set_span_in_context(self._inner or self._span, EMPTY))

    def _begin(self, message: Message, handlers: Sequence[str]) -> None:
        raise NotImplementedError

    def applied(self, messages: Sequence[Message]) -> None: ...

    def failed(self, error: BaseException, *, dead_letter: str = "") -> None:
        fail(self._span, error)
        if dead_letter:
            self._span.add_event("ensue.dead_letter", {"ensue.dead_letter.id": dead_letter})


class One(_Sampled):
    """One message that is processed alone: there is no span but its own."""

    def __init__(self, maker: SpanMaker, message: Message, attempt: int) -> None:
        created = carrier_of(message)
        context, links = (context_of(created), []) if maker.by_message else (EMPTY, links_to([created]))
        super().__init__(maker, maker.message_span(message, attempt, context, links))

    def _begin(self, message: Message, handlers: Sequence[str]) -> None:
        self._span.set_attribute("ensue.handler", ", ".join(handlers))


class Batch(_Sampled):
    """Several messages: a span for all, and one inside of it for each that is sampled."""

    def __init__(self, maker: SpanMaker, messages: Sequence[Message]) -> None:
        self._messages = messages
        first = messages[0]
        attributes = maker.attributes("process", first.topic) | {
            "messaging.destination.partition.id": str(first.partition),
            "messaging.consumer.group.name": maker.service,
        }
        span = begin(maker.tracer, f"process {first.topic}", EMPTY, SpanKind.CONSUMER, attributes)
        super().__init__(maker, span)

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        # Only now is it known which they were: handlers that take long leave the last ones to another batch.
        created = [each for each in map(carrier_of, self._messages) if is_sampled(each.traceparent)]
        self._span.set_attribute("messaging.batch.message_count", len(self._messages))
        for link in links_to(created[:LINKS_MAX]):
            self._span.add_link(link.context)
        if len(created) > LINKS_MAX:
            self._span.set_attribute("ensue.links.omitted", len(created) - LINKS_MAX)
        super().__exit__(kind, error, at)

    def applied(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def _begin(self, message: Message, handlers: Sequence[str]) -> None:
        created = carrier_of(message)
        if not is_sampled(created.traceparent):
            self._inner = trace.get_current_span(context_of(created))
            return
        context, links = trace.set_span_in_context(self._span, EMPTY), links_to([created])
        if self._maker.by_message:
            context, links = context_of(created), [Link(self._span.get_span_context())]
        self._inner = self._maker.message_span(message, 1, context, links)
        self._inner.set_attribute("ensue.handler", ", ".join(handlers))
