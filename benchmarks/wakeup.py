"""How soon another process sees what was committed: one process takes steps, another one relays them and reads the log.

The first process, started by this one, commits a step now and then and nothing else; the event holds the moment before
the step began, by the clock that all processes of a machine share. This process is the service's worker, so the step
has to wake its relay, and a reader of the log, which the relay's append has to wake. No polling: between two steps
nothing happens for 20 ms or more.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from benchmarks.child import environment
from benchmarks.ensue_side import make_runtime
from benchmarks.figures import Figure, Report, at_most
from benchmarks.latency import percentile
from ensue import Event, Service
from ensue.event import event_type
from ensue.message import Message


class Stamped(Event, topic="stamped", key="key"):
    """sent_at: monotonic seconds."""

    key: str
    sent_at: float


def run(quick: bool) -> Report:
    count = 10 if quick else 500
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        milliseconds = asyncio.run(_read(Path(name), count))
    return Report(
        name="wakeup",
        question="How long from before a step in one process until another process has its event from the log?",
        scale=f"{count} steps, 20 to 40 ms apart; two commits, one of them with an fsync, are part of it.",
        bad="above 20 ms: then somebody polls.",
        bound="two datagrams between processes, an fsync and the scheduler of the operating system.",
        figures=(
            Figure(name="p50", value=percentile(milliseconds, 50), unit="ms", goal=at_most(20)),
            Figure(name="p99", value=percentile(milliseconds, 99), unit="ms"),
            Figure(name="longest", value=max(milliseconds), unit="ms"),
        ),
    )


def make_service() -> Service:
    return Service("stamps", publishes=[Stamped])


async def _read(directory: Path, count: int) -> list[float]:
    runtime = make_runtime(make_service(), directory)
    await runtime.start()
    try:
        await runtime.ready()
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.wakeup", str(directory), str(count), env=environment()
        )
        found: list[float] = []
        reader = runtime.broker.reader("stamped", 0, 0)
        async with asyncio.timeout(120):
            while len(found) < count:
                batch = await reader.read(10, 1.0)
                now = time.monotonic()
                for record in batch:
                    if isinstance(record, Message) and record.type == event_type(Stamped).type:
                        found.append((now - event_type(Stamped).read(record.data).sent_at) * 1000)
            await writer.wait()
    finally:
        await runtime.stop()
    return found


async def _write(directory: Path, count: int) -> None:
    random = Random(1)
    runtime = make_runtime(make_service(), directory)
    await runtime.start(work=False)
    try:
        for _ in range(count):
            await asyncio.sleep(random.uniform(0.02, 0.04))
            stamped = Stamped(key="stamp", sent_at=time.monotonic())
            async with runtime.step() as step:
                step.publish(stamped)
    finally:
        await runtime.stop()


if __name__ == "__main__":
    asyncio.run(_write(Path(sys.argv[1]), int(sys.argv[2])))
