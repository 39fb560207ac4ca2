"""Time inside Ensue per event: everything but the handler's own statements and the fsync, in batches of 100.

Measured as CPU time (user and system, all threads of the process): the whole pipeline of `pipeline`, less a loop that
does what belongs to the handler alone, its SELECT, its change, its UPDATE and the commit with its fsync. What is left
is reading the log, decoding, deciding, encoding, writing outbox and checkpoint, and relaying into the log.
The second difference, to the bare loop that does all of these by hand, is what the framework adds to a script.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.attribution import attribute
from benchmarks.backlog import Backlog
from benchmarks.bare_loop import apply_with_statements, drain
from benchmarks.ensue_side import make_service
from benchmarks.figures import Figure, Report, at_most
from benchmarks.handler_only import handle_all
from benchmarks.rounds import alternate

BATCH = 100


def run(quick: bool) -> Report:
    count, rounds = (400, 1) if quick else (30_000, 7)
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        backlog = Backlog(Path(name), count, make_service)
        measured = alternate(
            {
                "handler": lambda: backlog.bare(
                    lambda files, _: handle_all(files, backlog.events, BATCH), publishes=False
                ),
                "bare": lambda: backlog.bare(lambda files, _: drain(files, BATCH, apply_with_statements(files))),
                "ensue": lambda: backlog.ensue(BATCH),
            },
            rounds,
        )
        copies = iter([backlog.ensue_copy(), backlog.ensue_copy()])
        parts = attribute(lambda: _drain(backlog, next(copies)))
    total = measured.cpu_us("ensue")
    return Report(
        name="overhead",
        question="How much CPU time does an event take inside Ensue?",
        scale=f"{rounds} rounds of {count:,} events, batches of {BATCH}; then once more under cProfile.",
        bad="above 50 µs: one core would carry fewer than 20,000 steps/s however cheap the handler.",
        bound="SQLite's INSERTs into outbox and log and msgspec, which a script has too, then Python's own pace.",
        figures=(
            Figure(name="whole pipeline", value=total, unit="µs"),
            Figure(name="handler's statements and commit alone", value=measured.cpu_us("handler"), unit="µs"),
            Figure(name="bare loop", value=measured.cpu_us("bare"), unit="µs"),
            measured.cpu_over("ensue", "handler", "time inside Ensue", goal=at_most(25)),
            measured.cpu_over("ensue", "bare", "more than the bare loop"),
            *(
                Figure(name=f"whole pipeline by cProfile: {part}", value=seconds / count * 1e6, unit="µs")
                for part, seconds in parts.items()
            ),
        ),
    )


def _drain(backlog: Backlog, copy: tempfile.TemporaryDirectory[str]) -> None:
    with copy as directory:
        backlog.drain(directory, BATCH)
