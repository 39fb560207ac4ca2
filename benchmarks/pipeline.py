"""Relay and consumer together, an entity step with a plain dataclass entity, against the bare loop of `bare_loop`.

Both begin with the same events in an SQLite log and end when each has changed its account and its own event is in the
log as well, batch by batch: read the log, decode, SELECT the accounts of the batch, change them, UPDATE, INSERT the
outbox, UPDATE the checkpoint, COMMIT with synchronous FULL; read the outbox, INSERT into the log, COMMIT with NORMAL.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.backlog import Backlog
from benchmarks.bare_loop import apply_with_statements, drain
from benchmarks.ensue_side import make_service
from benchmarks.figures import Figure, Report, at_least
from benchmarks.rounds import alternate


def run(quick: bool) -> Report:
    count, rounds = (400, 1) if quick else (30_000, 7)
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        narrow = Backlog(Path(name, "narrow"), count, make_service)
        figures = [*_compare(narrow, 100, rounds), *_compare(narrow, 500, rounds)]
        wide = Backlog(Path(name, "wide"), count, make_service, partitions=8)
        measured = alternate({"wide": lambda: wide.ensue(500)}, rounds)
        figures.append(measured.rate("wide", "Ensue as it is set by default: 8 partitions, batches of up to 500"))
    return Report(
        name="pipeline",
        question="How much of a bare batch loop's rate is left when Ensue does the same work with all it promises?",
        scale=f"{rounds} rounds of {count:,} events of 300 bytes, 1,000 accounts; one partition unless said otherwise.",
        bad="below 0.4 of the bare loop: then a script and a cron job would be the better way to work off a bulk.",
        bound="the CPU of one core: Python around SQLite's and msgspec's work, which the bare loop does as well.",
        figures=tuple(figures),
    )


def _compare(backlog: Backlog, batch: int, rounds: int) -> list[Figure]:
    measured = alternate(
        {
            "bare": lambda: backlog.bare(lambda files, _: drain(files, batch, apply_with_statements(files))),
            "ensue": lambda: backlog.ensue(batch),
        },
        rounds,
    )
    return [
        measured.rate("bare", f"bare loop, batches of {batch}"),
        measured.rate("ensue", f"Ensue, batches of {batch}"),
        measured.ratio("ensue", "bare", f"ratio, batches of {batch}", goal=at_least(0.5)),
    ]
