"""Traces of OpenTelemetry: `Service("orders", tracing=OpenTelemetry())`. Needs `pip install "ensue[otel]"`.

Spans and attributes follow the semantic conventions for messaging. Where they go, and how many are sampled, is for the
application's SDK to say; without one nothing is recorded. A span is begun only where the context that it follows from
is sampled. See docs/how-to/traces.md and docs/adr/0051.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal

from ensue.errors import UsageError

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
except ImportError as error:
    raise UsageError('ensue.integrations.opentelemetry: pip install "ensue[otel]"') from error

from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ensue.codec import decode_envelope
from ensue.failure import failure_in
from ensue.message import TRACESTATE, Message, OutboxRecord
from ensue.origin import AlreadyAnswered
from ensue.tracing import Carrier, Processing, Publishing, Tracing

__all__ = ["OpenTelemetry"]

#: As many links as an SDK keeps of one span unless it is told otherwise.
LINKS_MAX: Final = 128

_W3C = TraceContextTextMapPropagator()
_EMPTY = Context()  # what a span without a parent is begun in: a loop's task may have begun inside of one
_NOTHING: AbstractContextManager[Any] = nullcontext()
#: The last digit of a traceparent's flags, and where it stands, when its trace is sampled.
_SAMPLED = frozenset("13579bdf")
_FLAG = slice(54, 55)
#: Where an envelope's JSON has its traceparent. A quote inside of a value is escaped there, so this is in none.
_TRACEPARENT = b'"traceparent":"'
_SAMPLED_BYTES = frozenset(each.encode() for each in _SAMPLED)
_FROM, _TO = len(_TRACEPARENT) + 54, len(_TRACEPARENT) + 55


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
        from importlib.metadata import version

        tracer = trace.get_tracer("ensue", version("ensue"), self._provider)
        return _Tracing(tracer, service, system, by_message=self._by_message)


class _Tracing:
    """Of one service."""

    def __init__(self, tracer: Tracer, service: str, system: str, *, by_message: bool) -> None:
        self.tracer = tracer
        self.service = service
        self.by_message = by_message
        self._system = {"messaging.system": system}

    def attributes(self, operation: str, topic: str) -> dict[str, Any]:
        return {
            **self._system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
        }

    def create_in(
        self, context: Context | None, topic: str, kind: str, message_id: str, correlation_id: str
    ) -> Carrier:
        """Begin and end a `create` span there; None: in the current context."""
        attributes = self.attributes("create", topic) | {
            "messaging.message.id": message_id,
            "messaging.message.conversation_id": correlation_id,
            "cloudevents.event_id": message_id,
            "cloudevents.event_type": kind,
        }
        span = self.tracer.start_span(f"create {topic}", context, SpanKind.PRODUCER, attributes)
        span.end()
        return _carrier_of(span.get_span_context())

    @contextmanager
    def step(self, parent: Carrier) -> Iterator[Publishing | None]:
        within = contexts.get_current()
        if not trace.get_current_span(within).get_span_context().is_valid:
            within = _context_of(parent)
        span = self.tracer.start_span(f"step {self.service}", within, SpanKind.INTERNAL)
        with _ended(span), _current(span, within):
            yield _Step(self, span)

    @contextmanager
    def _sending(self, spans: Sequence[Span]) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            for span in spans:
                _fail(span, error)
            raise
        finally:
            for span in spans:
                span.end()

    def send(self, batches: Mapping[tuple[str, int], Sequence[OutboxRecord]]) -> AbstractContextManager[Any]:
        links: dict[str, list[SpanContext]] = {}
        for (topic, _), records in batches.items():
            for record in records:
                envelope = record.envelope
                at = envelope.find(_TRACEPARENT)
                if at >= 0 and envelope[at + _FROM : at + _TO] in _SAMPLED_BYTES and (created := _created(envelope)):
                    links.setdefault(topic, []).append(created)
        if not links:
            return _NOTHING
        return self._sending([self._send_span(topic, created, batches) for topic, created in links.items()])

    def _send_span(
        self, topic: str, created: Sequence[SpanContext], batches: Mapping[tuple[str, int], Sequence[OutboxRecord]]
    ) -> Span:
        counts = {number: len(records) for (name, number), records in batches.items() if name == topic}
        attributes = self.attributes("send", topic) | {"messaging.batch.message_count": sum(counts.values())}
        if len(counts) == 1:
            attributes["messaging.destination.partition.id"] = str(*counts)
        links = [Link(each) for each in created[:LINKS_MAX]]
        span = self.tracer.start_span(f"send {topic}", _EMPTY, SpanKind.CLIENT, attributes, links)
        if len(created) > LINKS_MAX:
            span.set_attribute("ensue.links.omitted", len(created) - LINKS_MAX)
        return span

    def process(self, messages: Sequence[Message], attempt: int = 1) -> Processing | None:
        for message in messages:
            if message.envelope.traceparent[_FLAG] in _SAMPLED:
                break
        else:
            return None if not messages[0].envelope.traceparent else _Unsampled(messages)
        return _One(self, messages[0], attempt) if len(messages) == 1 else _Batch(self, messages)

    def message_span(self, message: Message, attempt: int, context: Context, links: Sequence[Link]) -> Span:
        envelope = message.envelope
        attributes = self.attributes("process", message.topic) | {
            "messaging.destination.partition.id": str(message.partition),
            "messaging.consumer.group.name": self.service,
            "messaging.message.id": envelope.id,
            "messaging.message.conversation_id": message.correlation_id,
            "cloudevents.event_id": envelope.id,
            "cloudevents.event_source": message.source,
            "cloudevents.event_type": envelope.type,
            "ensue.attempt": attempt,
        }
        if message.position:
            attributes["ensue.position"] = message.position
        return self.tracer.start_span(f"process {message.topic}", context, SpanKind.CONSUMER, attributes, links)


class _Step:
    """A step that began outside."""

    def __init__(self, tracing: _Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        if not self._span.is_recording():
            return _carrier_of(self._span.get_span_context()) if self._span.get_span_context().is_valid else parent
        return self._tracing.create_in(_within(self._span), topic, kind, message_id, correlation_id)


class _Unsampled:
    """Messages of which none is sampled: what their handlers begin is not either, and goes on with their context."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._context = _context_of(carrier_of(messages[0]))
        # Only then is there more to hand on than what goes on by itself.
        self.told = any(each.envelope.extensions and TRACESTATE in each.envelope.extensions for each in messages)

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

    def __init__(self, tracing: _Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self._attempts = 0
        self._open: Message | None = None  # whose handlers are at work
        self._inner: Span | None = None  # of that message, or of a local step

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if error is not None:
            self.failed(error)
        self._span.end()

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        if self._open is not None and self._open.envelope.traceparent == parent.traceparent:
            inner = self._inner or self._span
            if not inner.is_recording():
                return parent
            return self._tracing.create_in(_within(inner), topic, kind, message_id, correlation_id)
        # A saga publishes at no message's turn: it goes on from what has woken it.
        if parent.traceparent[_FLAG] not in _SAMPLED:
            return parent
        return self._tracing.create_in(_context_of(parent), topic, kind, message_id, correlation_id)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._attempts += 1
        if self._attempts > 1:
            self._span.add_event("ensue.again", {"ensue.times": self._attempts})
        before = contexts.get_current()
        contexts.attach(trace.set_span_in_context(self._span, _EMPTY))
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
            if error is not None and failure_in(cause) is None:
                _fail(inner, cause)
            inner.end()

    def message(self, message: Message, handlers: Sequence[str], *, local: bool) -> None:
        if self._open is message:
            return  # the next of its handlers
        self._close(None)
        self._open = message
        if local:
            self._inner = self._tracing.tracer.start_span(
                f"step {self._tracing.service}",
                _context_of(carrier_of(message)),
                attributes={"ensue.handler": ", ".join(handlers)},
            )
        else:
            self._begin(message, handlers)
        contexts.attach(trace.set_span_in_context(self._inner or self._span, _EMPTY))

    def _begin(self, message: Message, handlers: Sequence[str]) -> None:
        raise NotImplementedError

    def applied(self, messages: Sequence[Message]) -> None: ...

    def failed(self, error: BaseException, *, dead_letter: str = "") -> None:
        _fail(self._span, error)
        if dead_letter:
            self._span.add_event("ensue.dead_letter", {"ensue.dead_letter.id": dead_letter})


class _One(_Sampled):
    """One message that is processed alone: there is no span but its own."""

    def __init__(self, tracing: _Tracing, message: Message, attempt: int) -> None:
        created = carrier_of(message)
        context, links = (_context_of(created), []) if tracing.by_message else (_EMPTY, _links([created]))
        super().__init__(tracing, tracing.message_span(message, attempt, context, links))

    def _begin(self, message: Message, handlers: Sequence[str]) -> None:
        self._span.set_attribute("ensue.handler", ", ".join(handlers))


class _Batch(_Sampled):
    """Several messages: a span for all, and one inside of it for each that is sampled."""

    def __init__(self, tracing: _Tracing, messages: Sequence[Message]) -> None:
        self._messages = messages
        first = messages[0]
        attributes = tracing.attributes("process", first.topic) | {
            "messaging.destination.partition.id": str(first.partition),
            "messaging.consumer.group.name": tracing.service,
        }
        span = tracing.tracer.start_span(f"process {first.topic}", _EMPTY, SpanKind.CONSUMER, attributes)
        super().__init__(tracing, span)

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        # Only now is it known which they were: handlers that take long leave the last ones to another batch.
        created = [each for each in map(carrier_of, self._messages) if each.traceparent[_FLAG] in _SAMPLED]
        self._span.set_attribute("messaging.batch.message_count", len(self._messages))
        for link in _links(created[:LINKS_MAX]):
            self._span.add_link(link.context)
        if len(created) > LINKS_MAX:
            self._span.set_attribute("ensue.links.omitted", len(created) - LINKS_MAX)
        super().__exit__(kind, error, at)

    def applied(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def _begin(self, message: Message, handlers: Sequence[str]) -> None:
        created = carrier_of(message)
        if created.traceparent[_FLAG] not in _SAMPLED:
            self._inner = trace.get_current_span(_context_of(created))
            return
        context, links = trace.set_span_in_context(self._span, _EMPTY), _links([created])
        if self._tracing.by_message:
            context, links = _context_of(created), [Link(self._span.get_span_context())]
        self._inner = self._tracing.message_span(message, 1, context, links)
        self._inner.set_attribute("ensue.handler", ", ".join(handlers))


# ------------------------------------------------------------------------------------------------------------ contexts


def carrier_of(message: Message) -> Carrier:
    envelope = message.envelope
    return Carrier(envelope.traceparent, (envelope.extensions or {}).get(TRACESTATE, ""))


def _context_of(carrier: Carrier) -> Context:
    """Empty, when nobody can read it: strangers write what they like."""
    given = {name: value for name, value in carrier._asdict().items() if value}
    return _W3C.extract(given, _EMPTY)


def _carrier_of(context: SpanContext) -> Carrier:
    found: dict[str, str] = {}
    _W3C.inject(found, trace.set_span_in_context(NonRecordingSpan(context), _EMPTY))
    return Carrier(**found)


def _within(span: Span) -> Context:
    """The current context where it is inside of `span`, so that a span of the user's own is in between; else that."""
    current = contexts.get_current()
    inner = trace.get_current_span(current)
    if inner.is_recording() and inner.get_span_context().trace_id == span.get_span_context().trace_id:
        return current
    return trace.set_span_in_context(span, _EMPTY)


def _links(carriers: Iterable[Carrier]) -> list[Link]:
    found = [trace.get_current_span(_context_of(each)).get_span_context() for each in carriers]
    return [Link(each) for each in found if each.is_valid]


def _created(raw: bytes) -> SpanContext | None:
    """Where the message of this envelope was created."""
    envelope = decode_envelope(raw)
    carrier = Carrier(envelope.traceparent, (envelope.extensions or {}).get(TRACESTATE, ""))
    found = trace.get_current_span(_context_of(carrier)).get_span_context()
    return found if found.is_valid else None


@contextmanager
def _current(span: Span, within: Context) -> Iterator[None]:
    """Make the span the current one. The block may be left in another task: so what is put back is put back by hand,
    and only where it is still the current one."""
    before = contexts.get_current()
    mine = trace.set_span_in_context(span, within)
    contexts.attach(mine)
    try:
        yield
    finally:
        if contexts.get_current() is mine:
            contexts.attach(before)


@contextmanager
def _ended(span: Span) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, AlreadyAnswered | GeneratorExit):
            _fail(span, error)
        raise
    finally:
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    """By the error's type alone: its text may quote values, and a trace goes to others than the log does."""
    kind = type(error).__qualname__
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, kind))
