"""Does it stay as fast and as small when log and outbox grow to 1,000,000 records?

Each phase runs in a new process (`growing`). The large system first works off a backlog of 1,000,000 events, its memory
read on the way, and so has as many records in log and outbox afterwards; the small one has 10,000. Then both work off
the same number of new events in turn, the small one in a fresh copy each time. Then how long it takes from starting a
process until an event that waited is dealt with; what there is beside log and outbox; and at last retention takes
everything away while steps go on.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.child import environment
from benchmarks.ensue_side import append_events, make_runtime, make_service, make_template
from benchmarks.figures import Figure, Report, at_least, at_most
from benchmarks.growing import PARTITIONS
from benchmarks.latency import percentile
from benchmarks.rounds import Sample, alternate


def run(quick: bool) -> Report:
    small, large, fresh, rounds = (500, 20_000, 500, 1) if quick else (10_000, 1_000_000, 20_000, 5)
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        figures = Growth(Path(name), small, large, fresh).measure(rounds)
    return Report(
        name="growth",
        question=f"Is anything slower or bigger after {large:,} events than after {small:,}?",
        scale=f"{rounds} rounds of {fresh:,} new events after {small:,} and after {large:,}, {PARTITIONS} partitions.",
        bad="memory or the time of a step that grows with what was ever sent.",
        bound="as `pipeline`; retention by its pauses, in which it lets steps in.",
        figures=tuple(figures),
    )


class System:
    """A directory with a service's database and a log. events: how many it has worked off, or will have next."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events = 0

    def append(self, count: int) -> None:
        asyncio.run(_append(self.directory, self.events, count))

    def run(self, phase: str, *numbers: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.growing", phase, str(self.directory), *map(str, numbers)]
        done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, check=True)
        return dict(json.loads(done.stdout))

    def drain(self, count: int) -> dict[str, Any]:
        result = self.run("drain", self.events, count)
        self.events += count
        return result

    def copy(self, directory: Path) -> System:
        shutil.copytree(self.directory, directory)
        copied = System(directory)
        copied.events = self.events
        return copied


class Growth:
    def __init__(self, directory: Path, small: int, large: int, fresh: int) -> None:
        self._directory = directory
        self._fresh = fresh
        self._large_count = large
        self._small, self._large = System(directory / "small"), System(directory / "large")
        for system, count in ((self._small, small), (self._large, large)):
            system.directory.mkdir()
            asyncio.run(make_template(system.directory, [], make_service(), partitions=PARTITIONS))
            system.append(count)
        self._small.drain(small)
        self._backlog = self._large.drain(large)

    def measure(self, rounds: int) -> list[Figure]:
        measured = alternate({"small": self._on_small, "large": self._on_large}, rounds)
        memory = [float(each) for each in self._backlog["memory_mib"]]
        backlog = f"backlog of {self._large_count:,}"
        return [
            measured.rate("small", "steps on few old records", unit="steps/s"),
            measured.rate("large", "steps on many old records", unit="steps/s"),
            measured.ratio("large", "small", "ratio", goal=at_least(0.9)),
            Figure(name=f"{backlog}: memory at 10 %", value=memory[0], unit="MiB"),
            Figure(name=f"{backlog}: memory at 50 %", value=memory[1], unit="MiB"),
            Figure(name=f"{backlog}: memory at 100 %", value=memory[2], unit="MiB"),
            Figure(name="memory at 100 % to that at 10 %", value=memory[2] / memory[0], unit="", goal=at_most(1.1)),
            self._start(),
            Figure(
                name="rows beside entities and outbox",
                value=self._other_rows(),
                unit="rows",
                goal=at_most(4 * PARTITIONS),
                about="a checkpoint and a head of the outbox for each partition; leases",
            ),
            *self._prune(measured.rate("large", "").value),
        ]

    def _on_small(self) -> Sample:
        copied = self._small.copy(self._directory / "copy")
        try:
            return self._new_events(copied)
        finally:
            shutil.rmtree(copied.directory)

    def _on_large(self) -> Sample:
        return self._new_events(self._large)

    def _new_events(self, system: System) -> Sample:
        system.append(self._fresh)
        return Sample(self._fresh, float(system.drain(self._fresh)["seconds"]), 0.0)

    def _start(self) -> Figure:
        self._large.append(1)
        result = self._large.run("start", time.monotonic(), self._large.events)
        self._large.events += 1
        return Figure(
            name="start-up",
            value=float(result["seconds"]),
            unit="s",
            goal=at_most(2),
            about=f"from starting the process until a waiting event is dealt with; {result['opened_s']:.2f} s of it "
            "until its files were open, Python's imports included",
        )

    def _other_rows(self) -> int:
        """Rows of all of Ensue's tables but the outbox."""
        connection = sqlite3.connect(self._large.directory / "service.db")
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            if name.startswith("ensue_") and name != "ensue_outbox"
        ]
        rows = sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)
        connection.close()
        return int(rows)

    def _prune(self, undisturbed: float) -> list[Figure]:
        count = self._fresh * 3
        self._large.append(count)
        result = self._large.run("prune", self._large.events, count)
        rate = count / float(result["seconds"])
        steps = [float(each) for each in result["steps_ms"]]
        return [
            Figure(
                name="steps while retention prunes",
                value=rate,
                unit="steps/s",
                about=f"{count:,} new events, {result['pruned_meanwhile']:,} rows pruned meanwhile",
            ),
            Figure(name="ratio to steps without pruning", value=rate / undisturbed, unit=""),
            Figure(
                name="pruned from outbox and log",
                value=float(result["pruned"]) / float(result["pruning_s"]),
                unit="rows/s",
                about=f"{result['pruned']:,} rows",
            ),
            Figure(name="single steps while it prunes, p50", value=percentile(steps, 50), unit="ms"),
            Figure(name="single steps while it prunes, p99", value=percentile(steps, 99), unit="ms"),
            Figure(name="single steps while it prunes, longest", value=max(steps), unit="ms"),
        ]


async def _append(directory: Path, after: int, count: int) -> None:
    runtime = make_runtime(make_service(), directory, partitions=PARTITIONS)
    await runtime.start(work=False)
    try:
        await append_events(runtime.broker, workload.transfers(count, seed=after), partitions=PARTITIONS, after=after)
    finally:
        await runtime.stop()
