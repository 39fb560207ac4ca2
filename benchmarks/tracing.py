"""What traces of OpenTelemetry cost where nothing is sampled, against a service that is not traced.

Measured as CPU time of the whole pipeline of `pipeline`, in turn, on the same log: its events carry a traceparent whose
flag says that their trace is not sampled, so what follows from them is not either. Spans of everything are the last
side: they go to nobody, so that it is what their making costs. The side without traces is measured twice: a share that
is smaller than what it differs from itself by says nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from benchmarks.backlog import Backlog
from benchmarks.ensue_side import make_service
from benchmarks.figures import Figure, Report, at_most
from benchmarks.rounds import alternate
from ensue.integrations.opentelemetry import OpenTelemetry

BATCH = 100
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
SAMPLED = UNSAMPLED[:-1] + "1"


def run(quick: bool) -> Report:
    count, rounds = (400, 1) if quick else (30_000, 16)
    spans = _Ended()
    everything = TracerProvider(shutdown_on_exit=False)
    everything.add_span_processor(spans)
    nothing = OpenTelemetry(tracer_provider=TracerProvider(ParentBased(ALWAYS_OFF), shutdown_on_exit=False))
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        unsampled = Backlog(Path(name, "unsampled"), count, make_service, traceparent=UNSAMPLED)
        sampled = Backlog(Path(name, "sampled"), count, make_service, traceparent=SAMPLED)
        measured = alternate(
            {
                "none": lambda: unsampled.ensue(BATCH),
                "nothing": lambda: unsampled.ensue(BATCH, nothing),
                "none again": lambda: unsampled.ensue(BATCH),
                "everything": lambda: sampled.ensue(BATCH, OpenTelemetry(tracer_provider=everything)),
            },
            rounds,
        )
    if spans.count < 2 * count:  # one for each message, and one for what it publishes
        raise AssertionError(f"{spans.count} spans ended where everything was sampled, expected at least {2 * count}")
    return Report(
        name="tracing",
        question="What do traces cost of which nothing is sampled?",
        scale=f"{rounds} rounds of {count:,} events, batches of {BATCH}.",
        bad="above 10 %: whoever samples one order in a thousand would pay for it with each.",
        bound="a look at the traceparent of each message, and of each record that the relay sends.",
        figures=(
            Figure(name="not traced", value=measured.cpu_us("none"), unit="µs"),
            measured.cpu_share("nothing", "none", "nothing is sampled: more", goal=at_most(3)),
            measured.cpu_over("nothing", "none", "nothing is sampled: more an event"),
            measured.cpu_share("none again", "none", "not traced, against itself: more"),
            measured.cpu_over("everything", "none", "everything is sampled: more an event"),
        ),
    )


class _Ended(SpanProcessor):
    """Counts the spans that have ended."""

    def __init__(self) -> None:
        self.count = 0

    def on_end(self, span: object) -> None:
        self.count += 1
