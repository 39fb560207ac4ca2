"""Contexts of OpenTelemetry and those that messages carry, one from the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ensue.codec import decode_envelope
from ensue.integrations.careful_spans import end
from ensue.message import TRACESTATE, Message, OutboxRecord
from ensue.origin import AlreadyAnswered
from ensue.tracing import Carrier

#: What a span without a parent is begun in: a loop's task may have begun inside of one.
EMPTY: Final = Context()
_W3C = TraceContextTextMapPropagator()
#: The last digit of a traceparent's flags when its trace is sampled.
_SAMPLED = frozenset("13579bdf")
#: Where an envelope's JSON has its traceparent. A quote inside of a value is escaped there, so this is in none.
_TRACEPARENT = b'"traceparent":"'
_SAMPLED_BYTES = frozenset(each.encode() for each in _SAMPLED)
_FROM, _TO = len(_TRACEPARENT) + 54, len(_TRACEPARENT) + 55
#: How an envelope ends whose traceparent is of a trace that is not sampled. Nothing comes behind it there but a media
#: type, which JSON leaves out, and extensions, which end otherwise: so one look is enough for most.
_UNSAMPLED_ENDS = frozenset({b'-00"}', b'-02"}'})


def is_sampled(traceparent: str) -> bool:
    """
    >>> is_sampled("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), is_sampled("")
    (True, False)
    """
    return traceparent[54:55] in _SAMPLED


def none_sampled(messages: Iterable[Message]) -> bool:
    """As `not any(is_sampled(...))`, quickly: it is asked of every message."""
    return _SAMPLED.isdisjoint([each.envelope.traceparent[54:55] for each in messages])


def carrier_of(message: Message) -> Carrier:
    envelope = message.envelope
    return Carrier(envelope.traceparent, (envelope.extensions or {}).get(TRACESTATE, ""))


def context_of(carrier: Carrier) -> Context:
    """Empty, when nobody can read it: strangers write what they like."""
    given = {name: value for name, value in carrier._asdict().items() if value}
    return _W3C.extract(given, EMPTY)


def as_carrier(context: SpanContext) -> Carrier:
    found: dict[str, str] = {}
    _W3C.inject(found, trace.set_span_in_context(NonRecordingSpan(context), EMPTY))
    return Carrier(**found)


def inside(span: Span) -> Context:
    """The current context where it is inside of `span`, so that a span of the user's own is in between; else that."""
    now = contexts.get_current()
    inner = trace.get_current_span(now)
    if inner.is_recording() and inner.get_span_context().trace_id == span.get_span_context().trace_id:
        return now
    return trace.set_span_in_context(span, EMPTY)


def links_to(carriers: Iterable[Carrier]) -> list[Link]:
    found = [trace.get_current_span(context_of(each)).get_span_context() for each in carriers]
    return [Link(each) for each in found if each.is_valid]


def creations(records: Sequence[OutboxRecord]) -> list[SpanContext]:
    """Where those of these records were created whose traces are sampled."""
    left = [each.envelope for each in records if each.envelope[-5:] not in _UNSAMPLED_ENDS]
    return [found for each in left if (found := _created_at(each)) is not None]


def _created_at(raw: bytes) -> SpanContext | None:
    """The JSON is decoded only when its trace is sampled."""
    at = raw.find(_TRACEPARENT)
    if at < 0 or raw[at + _FROM : at + _TO] not in _SAMPLED_BYTES:
        return None
    envelope = decode_envelope(raw)
    carrier = Carrier(envelope.traceparent, (envelope.extensions or {}).get(TRACESTATE, ""))
    found = trace.get_current_span(context_of(carrier)).get_span_context()
    return found if found.is_valid else None


@contextmanager
def current(span: Span, within: Context) -> Iterator[None]:
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
def ended(span: Span) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, AlreadyAnswered | GeneratorExit):
            fail(span, error)
        raise
    finally:
        end(span)


def fail(span: Span, error: BaseException) -> None:
    """By the error's type alone: its text may quote values, and a trace goes to others than the log does."""
    kind = type(error).__qualname__
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, kind))
