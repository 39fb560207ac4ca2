"""What waiting for a token adds: from a commit until the reader's own commit, and until who waits for it goes on.

One service publishes numbers, at 50 a second, another one shows them; both are on embedded defaults, SQLite with an
fsync a commit, and the writer on PostgreSQL too, where `step.token()` asks for the positions. The reader's store notes
when it has committed a number. What a wait adds is how much later the wait for that number's token is over: where this
process reads the partitions, and where another one does and this one looks at its checkpoints.

Then 10,000 wait at once where another process reads, for numbers that are not written yet.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from servers import PostgresServer

from benchmarks.child import environment
from benchmarks.figures import Figure, Report, at_most
from benchmarks.latency import percentile
from benchmarks.tokens_side import NumberTold, StampedStore, showing
from ensue import Service, Token
from ensue.token import Part

RATE = 50.0
KEYS = 50
_ENOUGH_S = 120.0


class Times(NamedTuple):
    """In milliseconds, of each write. own: from the writer's commit until the reader's. added: from there until the
    wait is over. told: of `step.token()`."""

    own: list[float]
    added: list[float]
    told: list[float]


def run(quick: bool) -> Report:
    count, waiters = (20, 500) if quick else (1_500, 10_000)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        for each in ("here", "there", "postgres", "crowd"):
            (Path(name) / each).mkdir()
        here = asyncio.run(_paced(Path(name) / "here", count, elsewhere=False))
        there = asyncio.run(_paced(Path(name) / "there", count, elsewhere=True))
        figures += [*_figures("read by this process", here), *_figures("read by another process", there)]
        if missing := PostgresServer.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
        else:
            with PostgresServer(durable=True) as server:
                server.psql("postgres", "CREATE DATABASE numbers")
                times = asyncio.run(_paced(Path(name) / "postgres", count, False, server.url("numbers")))
            figures += _figures("written on PostgreSQL", times)
            figures.append(
                Figure(name="written on PostgreSQL: step.token(), p50", value=percentile(times.told, 50), unit="ms")
            )
        figures += asyncio.run(_crowd(Path(name) / "crowd", waiters))
    return Report(
        name="tokens",
        question="What does a reader's wait for its own write add to the time that the write takes to get there?",
        scale=f"{count:,} writes at {RATE:g} a second; then {waiters:,} who wait at once.",
        bad="a wait that adds as much as the pipeline takes: who asks again and again would do as well; a question to "
        "the database for each who waits.",
        bound="a turn of the event loop; where another process reads, the pause between two looks, 4 ms and more.",
        figures=tuple(figures),
    )


def _figures(name: str, times: Times) -> list[Figure]:
    return [
        Figure(name=f"{name}: the pipeline's own, p50", value=percentile(times.own, 50), unit="ms"),
        Figure(name=f"{name}: added, p50", value=percentile(times.added, 50), unit="ms", goal=at_most(5)),
        Figure(name=f"{name}: added, p99", value=percentile(times.added, 99), unit="ms"),
    ]


async def _paced(directory: Path, count: int, elsewhere: bool, database: str = "") -> Times:
    async with _services(directory, elsewhere, database) as (numbers, shown, child):
        done: dict[int, tuple[float, float, float]] = {}
        begin = time.monotonic() + 0.1

        async def write_and_wait(number: int) -> None:
            async with numbers.step() as step:
                step.publish(NumberTold(key=str(number % KEYS), number=number))
            committed = time.monotonic()
            token = await step.token()
            told = time.monotonic()
            await shown.caught_up(token, timeout=_ENOUGH_S)
            done[number] = committed, told, time.monotonic()

        async with asyncio.timeout(_ENOUGH_S), asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(max(begin + number / RATE - time.monotonic(), 0))
                group.create_task(write_and_wait(number))
        seen = await _committed(shown, child)
    return Times(
        [(seen[each] - committed) * 1000 for each, (committed, _, _) in done.items()],
        [(over - seen[each]) * 1000 for each, (_, _, over) in done.items()],
        [(told - committed) * 1000 for committed, told, _ in done.values()],
    )


async def _crowd(directory: Path, waiters: int) -> list[Figure]:
    async with _services(directory, True, "") as (numbers, shown, _):
        store = shown.runtime.store
        assert isinstance(store, StampedStore)
        async with numbers.step() as step:
            for number in range(KEYS):
                step.publish(NumberTold(key=str(number), number=number))
        token = await step.token()
        await shown.caught_up(token, timeout=_ENOUGH_S)
        # SQLite numbers what comes next by one: of the next round of the same keys, the last one.
        ahead = Token.of(Part(*part[:3], part.position + KEYS) for part in token.parts)
        store.asked = 0
        begin = time.monotonic()
        waiting = [asyncio.create_task(shown.caught_up(ahead, timeout=_ENOUGH_S)) for _ in range(waiters)]
        while shown.runtime.context.caught_up.waiting < waiters:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.001)
        all_there = time.monotonic()
        async with numbers.step() as step:
            for number in range(KEYS):
                step.publish(NumberTold(key=str(number), number=KEYS + number))
        committed = time.monotonic()
        await asyncio.gather(*waiting)
        over = time.monotonic()
    return [
        Figure(name=f"until {waiters:,} wait", value=(all_there - begin) * 1000, unit="ms"),
        Figure(name="from the commit until all go on", value=(over - committed) * 1000, unit="ms"),
        Figure(name="questions to the database meanwhile", value=store.asked, unit=""),
        Figure(
            name="questions for each who waits", value=store.asked / waiters, unit="", goal=at_most(0.1),
            about="none each: however many wait, one look is for all of them",
        ),
    ]  # fmt: skip


async def _committed(shown: Service, child: subprocess.Popen[str] | None) -> dict[int, float]:
    """When the reader has committed which number."""
    if child is None:
        store = shown.runtime.store
        assert isinstance(store, StampedStore)
        return store.committed
    said, _ = await asyncio.to_thread(child.communicate)
    return {int(number): at for number, at in json.loads(said.splitlines()[-1]).items()}


@asynccontextmanager
async def _services(
    directory: Path, elsewhere: bool, database: str
) -> AsyncIterator[tuple[Service, Service, subprocess.Popen[str] | None]]:
    settings = {"ENSUE_HOME": str(directory)} | ({"ENSUE_NUMBERS_DATABASE": database} if database else {})
    with _set(settings), _working(settings) if elsewhere else nullcontext() as child:
        if child is not None:
            assert child.stdout is not None
            assert await asyncio.to_thread(child.stdout.readline) == "ready\n"
        numbers = Service("numbers", publishes=[NumberTold])
        shown, runtime, _ = showing()
        async with numbers.running(), shown.running(runtime, work=not elsewhere):
            await numbers.runtime.ready()
            await runtime.ready()
            yield numbers, shown, child


@contextmanager
def _working(settings: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.tokens_side"],
        env=environment() | dict(settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.poll() is None:
            child.communicate()


@contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
