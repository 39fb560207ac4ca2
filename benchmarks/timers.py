"""A service with a million events that wait for their time: what they cost while they wait, and how late they are.

The service is a process of its own, once with an empty table of timers and once with a full one; the rows are those
that a step writes, with other ids and times. Then steps in this process publish events that are due at an even pace.
Late is how long after its time a handler in the other process has an event: found in the table, moved into the
outbox, sent, read and handled. All is on one machine, so that there is one clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from servers import PostgresServer

from benchmarks.figures import Figure, Report, at_most
from benchmarks.latency import percentile
from benchmarks.resting import LIMIT_S, child, figures_of, rest, told
from ensue import Event, Service
from ensue.config import EngineConfig
from ensue.tables import TIMERS

_ROWS_AT_ONCE = 2_000
_ID, _DUE = TIMERS.columns.index(TIMERS.id_column), TIMERS.columns.index("due_at")


class Rang(Event, topic="alarms", key="alarm_id"):
    """due_at: seconds since the epoch."""

    alarm_id: int
    due_at: float


class Counts(NamedTuple):
    """waiting: a year from now. per_s, seconds: of those that become due. quiet_s: how long it is looked at."""

    waiting: int
    per_s: int
    seconds: int
    quiet_s: float
    lead_s: float


def run(quick: bool) -> Report:
    counts = Counts(1_000, 50, 1, 0.5, 2) if quick else Counts(1_000_000, 1_000, 20, 20, 20)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        directory = Path(name)
        figures += asyncio.run(_measure("SQLite", f"sqlite:///{directory}/alarms.db", directory, counts))
        if missing := PostgresServer.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
        else:
            with PostgresServer(durable=True) as server:
                figures += asyncio.run(_measure("PostgreSQL", server.url("alarms"), directory, counts))
    return Report(
        name="timers",
        question="What do a million events cost that wait for their time, and how late are those that are due?",
        scale=f"{counts.waiting:,} wait, {counts.quiet_s:g} s of rest; {counts.seconds} s of {counts.per_s:,} each.",
        bad="above 100 ms late, or if it grew with what waits: then somebody reads more than what is due.",
        bound="a commit for what moves out of the table, one for the log, one for the handlers.",
        figures=tuple(figures),
    )


async def _measure(name: str, url: str, directory: Path, counts: Counts) -> list[Figure]:
    broker = f"sqlite:///{directory}/{name}.log"
    async with child("benchmarks.timers", url, broker) as service:
        empty = await rest(service, counts.quiet_s)
    filled_s = await _fill(url, broker, counts)
    async with child("benchmarks.timers", url, broker) as service:
        full = await rest(service, counts.quiet_s)
        late = await _ring(service, url, broker, counts)
    return [
        *figures_of(name, empty, full, "waiting"),
        Figure(name=f"{name}: late, p50", value=percentile(late, 50), unit="ms"),
        Figure(name=f"{name}: late, p99", value=percentile(late, 99), unit="ms", goal=at_most(100)),
        Figure(name=f"{name}: late, longest", value=max(late), unit="ms"),
        Figure(name=f"{name}: rows written to wait", value=counts.waiting / filled_s, unit="rows/s"),
    ]  # fmt: skip


async def _fill(url: str, broker: str, counts: Counts) -> float:
    """Have so many wait; return how many seconds it took."""
    service = make_service(url, broker)
    async with service.running(work=False) as runtime:
        async with runtime.step() as step:
            name = step.publish(Rang(alarm_id=0, due_at=0), after=timedelta(days=365))
        began = time.monotonic()
        async with runtime.store.transaction() as transaction:
            [row] = await transaction.load_rows(TIMERS, [name])
        for first in range(1, counts.waiting, _ROWS_AT_ONCE):
            rows = []
            for number in range(first, min(first + _ROWS_AT_ONCE, counts.waiting)):
                another = list(row)
                another[_ID], another[_DUE] = f"{name[:-8]}{number:08x}", row[_DUE] + number
                rows.append(another)
            async with runtime.store.transaction() as transaction:
                await transaction.insert_rows(TIMERS, rows)
        return time.monotonic() - began


async def _ring(process: asyncio.subprocess.Process, url: str, broker: str, counts: Counts) -> list[float]:
    """Have alarms ring at an even pace; return how late each was, in milliseconds."""
    service = make_service(url, broker)
    count = counts.per_s * counts.seconds
    assert process.stdin is not None
    process.stdin.write(f"{count}\n".encode())
    async with service.running(work=False):
        first = time.time() + counts.lead_s
        for begin in range(0, count, 500):
            async with service.step() as step:
                for number in range(begin, min(begin + 500, count)):
                    due = first + number / counts.per_s
                    step.publish(Rang(alarm_id=number, due_at=due), at=datetime.fromtimestamp(due, UTC))
        if time.time() > first:
            raise RuntimeError("the alarms were written too slowly: the first were due before the last were written")
        return [each * 1000 for each in await told(process)]


class Heard:
    """late: of each alarm that rang, in seconds."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._more = asyncio.Event()

    def ring(self, event: Rang) -> None:
        self.late.append(time.time() - event.due_at)
        self._more.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(self.late) < count:
                self._more.clear()
                await self._more.wait()


def make_service(url: str, broker: str, heard: Heard | None = None) -> Service:
    alarms = Service(
        "alarms", publishes=[Rang], database=url, broker=broker, engine=EngineConfig(poll_interval_s=1.0), partitions=4
    )
    if heard is not None:

        @alarms.on
        async def ring(event: Rang) -> None:
            heard.ring(event)

    return alarms


async def _serve(url: str, broker: str) -> None:
    """Say how long the start took; then, for each number that is read, how late so many alarms were."""
    heard = Heard()
    began = time.monotonic()
    async with make_service(url, broker, heard).running() as runtime:
        await runtime.ready()
        print(json.dumps([time.monotonic() - began]), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await heard.until(int(line))
            print(json.dumps(heard.late), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
