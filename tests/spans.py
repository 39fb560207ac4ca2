"""Spans of OpenTelemetry's SDK as tests look at them: what follows from a span, as lines of text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler


class Spans(SpanExporter):
    """All that have ended, in that order. `until` waits for one more without asking again and again."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.ended: list[ReadableSpan] = []
        self._more = asyncio.Event()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.ended += spans
        self._more.set()
        return SpanExportResult.SUCCESS

    async def until(self, good: Callable[[], bool], limit_s: float = 60.0) -> None:
        async with asyncio.timeout(limit_s):
            while not good():
                self._more.clear()
                await self._more.wait()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span

    def tree(self, root: ReadableSpan) -> str:
        """What hangs on a span, a line each: `-` before a child, `~` before one that has a link to it."""
        return "\n".join(self._lines(root, ""))

    def _lines(self, span: ReadableSpan, depth: str) -> list[str]:
        mine = id_of(span)
        found = [("- ", each) for each in self.ended if each.parent is not None and each.parent.span_id == mine]
        found += [("~ ", each) for each in self.ended if any(link.context.span_id == mine for link in each.links)]
        lines = []
        for mark, each in sorted(found, key=lambda pair: shown(pair[1])):
            lines.append(f"{depth}{mark}{shown(each)}")
            lines += self._lines(each, depth + "  ")
        return lines


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def shown(span: ReadableSpan) -> str:
    about = span.attributes or {}
    by = f" by {about['messaging.consumer.group.name']!s}" if "messaging.consumer.group.name" in about else ""
    handler = f", {about['ensue.handler']!s}" if "ensue.handler" in about else ""
    return f"{span.name}{by}{handler}"
