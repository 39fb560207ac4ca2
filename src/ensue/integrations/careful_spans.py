"""Spans are begun and ended with code of the application's: its sampler, its span processors.

One of them that raises is told in the log, and takes no step, message or append along, which are worth more than what
is told of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Tracer
from opentelemetry.util.types import AttributeValue

from ensue.texts import logger

log = logger("ensue.tracing")


def begin(
    tracer: Tracer,
    name: str,
    context: Context,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
    links: Sequence[Link] = (),
) -> Span:
    """Return a span that has begun in a context; where that fails one that records nothing, so that the context goes
    on as it is."""
    try:
        return tracer.start_span(name, context, kind, attributes, links)
    except Exception:
        log.exception("the span %s is left out: the application's sampler or span processor has failed", name)
        return NonRecordingSpan(trace.get_current_span(context).get_span_context())


def end(span: Span) -> None:
    """End a span."""
    try:
        span.end()
    except Exception:
        name = getattr(span, "name", "")
        log.exception("the span %s may be left out: the application's span processor has failed", name)
