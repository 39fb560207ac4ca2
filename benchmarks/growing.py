"""One service over a log and an outbox that grow, in a process of its own, so that its memory is its own.

`python -m benchmarks.growing PHASE DIRECTORY …` prints one line of JSON; `growth` runs the phases and reads the lines.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from benchmarks import workload
from benchmarks.ensue_side import make_runtime, make_service
from ensue.config import EngineConfig
from ensue.engine.runtime import Runtime
from ensue.engine.worker import Worker

PARTITIONS = 8


class Draining:
    """Waits until the worker's relay has reached a position, and notes the memory on the way.

    memory_mib: resident memory at each of `marks`, which are positions.
    """

    def __init__(self, through: int, marks: tuple[int, ...] = ()) -> None:
        self.finished = asyncio.Event()
        self.memory_mib: list[float] = []
        self.worker: Worker | None = None
        self._through = through
        self._marks = marks

    def progress(self) -> None:
        if self.worker is None or self.worker.loops.relay is None:
            return
        position = self.worker.loops.relay.position
        if len(self.memory_mib) < len(self._marks) and position >= self._marks[len(self.memory_mib)]:
            self.memory_mib.append(psutil.Process().memory_info().rss / 2**20)
        if position >= self._through:
            self.finished.set()


@asynccontextmanager
async def working(directory: Path, draining: Draining, engine: EngineConfig | None = None) -> AsyncIterator[Runtime]:
    """The service with its worker; the stopwatch of the caller starts inside, when files are open."""
    runtime = make_runtime(make_service(), directory, partitions=PARTITIONS, engine=engine, progress=draining.progress)
    await runtime.start(work=False)
    draining.worker = Worker(runtime.context)
    try:
        yield runtime
    finally:
        await draining.worker.stop()
        await runtime.stop()


async def drain(directory: Path, before: int, count: int) -> dict[str, object]:
    """Work off `count` events after `before`."""
    marks = tuple(before + count * percent // 100 for percent in (10, 50, 100))
    draining = Draining(before + count, marks)
    async with working(directory, draining):
        assert draining.worker is not None
        began = time.perf_counter()
        await draining.worker.start()
        async with asyncio.timeout(1200):
            await draining.finished.wait()
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory_mib": draining.memory_mib}


async def start(directory: Path, began: float, before: int) -> dict[str, object]:
    """From `began` (monotonic seconds, before this process was) until the one event that waits has been dealt with."""
    draining = Draining(before + 1)
    async with working(directory, draining):
        assert draining.worker is not None
        opened = time.monotonic() - began
        await draining.worker.start()
        async with asyncio.timeout(120):
            await draining.finished.wait()
        seconds = time.monotonic() - began
    return {"seconds": seconds, "opened_s": opened}


async def prune(directory: Path, before: int, count: int) -> dict[str, object]:
    """Work off `count` events while retention takes everything away, then take steps until it has."""
    engine = EngineConfig(retention_s=0.2, retention_interval_s=0.05)
    draining = Draining(before + count)
    async with working(directory, draining, engine) as runtime:
        assert draining.worker is not None
        rows_before = await rows_kept(runtime, directory)
        began = time.perf_counter()
        await draining.worker.start()
        async with asyncio.timeout(1200):
            await draining.finished.wait()
            seconds = time.perf_counter() - began
            left = await rows_kept(runtime, directory)
            steps = await _steps_until_pruned(runtime, directory)
        pruning_s = time.perf_counter() - began
        pruned = rows_before + 2 * (count + len(steps)) - await rows_kept(runtime, directory)
    return {
        "seconds": seconds, "pruned_meanwhile": rows_before + 2 * count - left,
        "pruning_s": pruning_s, "pruned": pruned,
        "steps_ms": [step * 1000 for step in steps],
    }  # fmt: skip


async def _steps_until_pruned(runtime: Runtime, directory: Path) -> list[float]:
    """Publish a step every 5 ms until hardly a row is left; return how long each took."""
    took: list[float] = []
    [event] = workload.transfers(1)
    while len(took) < 20 or await rows_kept(runtime, directory) > 1_000:
        began = time.perf_counter()
        async with runtime.step() as step:
            step.publish(workload.amount_told(event))
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return took


async def rows_kept(runtime: Runtime, directory: Path) -> int:
    """Rows of the outbox and of the log of what this service publishes; by their ends, which takes no time."""
    service = sqlite3.connect(directory / "service.db")
    # One each: SQLite looks at the ends of a table only for a single min or max, else at all of it.
    [(first,)] = service.execute("SELECT min(position) FROM ensue_outbox")
    [(last,)] = service.execute("SELECT max(position) FROM ensue_outbox")
    service.close()
    rows = 0 if first is None else int(last - first + 1)
    for partition in range(PARTITIONS):
        bounds = await runtime.broker.bounds(workload.OUT, partition)
        rows += bounds.last - bounds.first + 1
    return rows


def main(phase: str, directory: str, *numbers: str) -> None:
    given = Path(directory)
    match phase:
        case "drain":
            result = asyncio.run(drain(given, int(numbers[0]), int(numbers[1])))
        case "start":
            result = asyncio.run(start(given, float(numbers[0]), int(numbers[1])))
        case "prune":
            result = asyncio.run(prune(given, int(numbers[0]), int(numbers[1])))
        case _:
            raise SystemExit(f"no phase {phase!r}")
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
