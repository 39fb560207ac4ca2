"""A service with a million sagas that sleep until next year: what they cost while nothing happens.

As `timers` does it for events: the service is a process of its own, once with none and once with all of them; the rows,
a saga and its timer each, are those that a saga writes that goes to sleep, with other ids and times. Then sagas are
started among those that sleep, one after the other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from servers import PostgresServer

from benchmarks.figures import Figure, Report
from benchmarks.latency import percentile
from benchmarks.resting import LIMIT_S, child, figures_of, rest, told
from ensue import Saga, Service
from ensue.config import EngineConfig
from ensue.ports import Row, StepTransaction, Store, Table
from ensue.tables import SAGAS, TIMERS

_ROWS_AT_ONCE = 2_000
_DUE = TIMERS.columns.index("due_at")
_DISTANCE_S = 0.05


@dataclasses.dataclass(frozen=True)
class Remind:
    """after_s: how long it sleeps."""

    number: int
    after_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """sleeping: until next year. quiet_s: how long it is looked at. started: among those that sleep."""

    sleeping: int
    quiet_s: float
    started: int


def run(quick: bool) -> Report:
    counts = Counts(1_000, 0.5, 5) if quick else Counts(1_000_000, 20, 200)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        directory = Path(name)
        figures += asyncio.run(_measure("SQLite", f"sqlite:///{directory}/reminders.db", directory, counts))
        if missing := PostgresServer.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
        else:
            with PostgresServer(durable=True) as server:
                figures += asyncio.run(_measure("PostgreSQL", server.url("reminders"), directory, counts))
    return Report(
        name="sleeping_sagas",
        question="What do a million sagas cost that sleep?",
        scale=f"{counts.sleeping:,} sleep, {counts.quiet_s:g} s of rest; then {counts.started} are started, one each "
        f"{_DISTANCE_S * 1000:g} ms, that end at once.",
        bad="memory, or a start, that grows with what sleeps: then somebody keeps, or reads, more than what is due.",
        bound="rows that nobody looks at: a heartbeat a second, and one look at the earliest timer.",
        figures=tuple(figures),
    )


async def _measure(name: str, url: str, directory: Path, counts: Counts) -> list[Figure]:
    broker = f"sqlite:///{directory}/{name}.log"
    async with child("benchmarks.sleeping_sagas", url, broker) as service:
        empty = await rest(service, counts.quiet_s)
        before = await _ended(service, counts, 0)
    filled_s = await _fill(url, broker, counts.sleeping)
    async with child("benchmarks.sleeping_sagas", url, broker) as service:
        full = await rest(service, counts.quiet_s)
        took = await _ended(service, counts, 1)
    return [
        *figures_of(name, empty, full, "sleeping"),
        Figure(name=f"{name}: another one, p50, none sleeping", value=percentile(before, 50), unit="ms"),
        Figure(name=f"{name}: another one, p50, all sleeping", value=percentile(took, 50), unit="ms"),
        Figure(name=f"{name}: another one, p99, all sleeping", value=percentile(took, 99), unit="ms"),
        Figure(name=f"{name}: sagas written to sleep", value=counts.sleeping / filled_s, unit="sagas/s"),
    ]


async def _ended(process: asyncio.subprocess.Process, counts: Counts, part: int) -> list[float]:
    """Have sagas begin and end; return how many milliseconds each took. part: so that each has another id."""
    assert process.stdin is not None
    process.stdin.write(f"{json.dumps([part * counts.started, counts.started])}\n".encode())
    return [each * 1000 for each in await told(process)]


async def _fill(url: str, broker: str, count: int) -> float:
    """Have one go to sleep for a year, and so many others like it; return how many seconds these took."""
    service, remind = make_service(url, broker)
    async with service.running() as runtime, asyncio.timeout(LIMIT_S * 2):
        async with runtime.step() as step:
            step.start(remind, Remind(0, 365 * 86_400.0), id="sleeper-00000000")
        saga = await _asleep(runtime.store)
        [timer] = await runtime.store.rows().find(TIMERS, TIMERS.lookups[0], [], limit=10)
        began = time.monotonic()
        for first in range(1, count, _ROWS_AT_ONCE):
            numbers = range(first, min(first + _ROWS_AT_ONCE, count))
            async with runtime.store.transaction() as transaction:
                await _write(transaction, saga, timer, numbers)
        return time.monotonic() - began


async def _write(transaction: StepTransaction, saga: Row, timer: Row, numbers: Sequence[int]) -> None:
    names = {number: f"{timer[0][:-8]}{number:08x}" for number in numbers}
    key = _column(TIMERS, "record_key")
    sagas, timers = [], []
    for number, name in names.items():
        mine, alarm = list(saga), list(timer)
        mine[0] = f"remind:sleeper-{number:08d}"
        mine[_column(SAGAS, "state")] = saga[_column(SAGAS, "state")].replace(timer[0].encode(), name.encode())
        alarm[0], alarm[_DUE] = name, timer[_DUE] + number
        alarm[key] = mine[0].encode()
        sagas.append(tuple(mine))
        timers.append(tuple(alarm))
    await transaction.insert_rows(SAGAS, sagas)
    await transaction.insert_rows(TIMERS, timers)


async def _asleep(store: Store) -> Row:
    while True:
        if found := await store.rows().get(SAGAS, ["remind:sleeper-00000000"]):
            return found[0]
        await asyncio.sleep(0.01)


def _column(table: Table, name: str) -> int:
    return table.columns.index(name)


def make_service(url: str, broker: str) -> tuple[Service, Any]:
    reminders = Service(
        "reminders", publishes=[], database=url, broker=broker, engine=EngineConfig(poll_interval_s=1.0), partitions=4
    )

    @reminders.saga
    async def remind(saga: Saga, new: Remind) -> int:
        if new.after_s:
            await saga.sleep(timedelta(seconds=new.after_s))
        return new.number

    return reminders, remind


async def _serve(url: str, broker: str) -> None:
    """Say how long the start took; then, for each line [first, count], how long so many sagas took to end."""
    began = time.monotonic()
    service, remind = make_service(url, broker)
    async with service.running() as runtime:
        await runtime.ready()
        print(json.dumps([time.monotonic() - began]), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            first, count = json.loads(line)
            print(
                json.dumps([await _one(service, remind, number) for number in range(first, first + count)]), flush=True
            )


async def _one(service: Service, remind: Any, number: int) -> float:
    await asyncio.sleep(_DISTANCE_S)
    began = time.monotonic()
    async with service.step() as step:
        step.start(remind, Remind(number, 0.0), id=f"another-{number}")
    await service.ended(remind, f"another-{number}", timeout=LIMIT_S)
    return time.monotonic() - began


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
