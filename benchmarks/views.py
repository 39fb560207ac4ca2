"""A view built from the log's beginning, against reading the log bare and writing the same rows; and queries meanwhile.

Both sides read one embedded log, batches of 500, and commit rows and checkpoint together: an SQLite file with an fsync
a commit, PostgreSQL with its default durability, Redis as it is. The bare loop has no partitions to share, no chain, no
other process. Queries are of version 1, one row each at 100 a second in a process of its own, before version 2 is built
and while another process builds it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count as counting
from pathlib import Path
from random import Random

from servers import PostgresServer, RedisServer

from benchmarks.child import environment
from benchmarks.figures import Figure, Report, at_least, at_most
from benchmarks.latency import percentile
from benchmarks.rounds import Sample, Stopwatch, alternate
from benchmarks.view_building import read_to_the_end, versions_of
from benchmarks.views_side import BUYERS, OnPostgres, OnRedis, OnSqlite, Spent, buyer, by_hand, fill, view_of
from ensue import View
from ensue.views import states

QUERIES_PER_S = 100.0


def run(quick: bool) -> Report:
    count, rounds, many, seconds = (6_000, 1, 7_000, 0.5) if quick else (100_000, 3, 1_000_000, 10.0)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name, ExitStack() as stack:
        home = Path(name)
        log = home / "broker.db"
        asyncio.run(fill(f"sqlite:///{log}", count))
        figures += _rates("SQLite", home, log, rounds, lambda number: f"sqlite:///{home}/view{number}.db")
        figures += asyncio.run(_queries("SQLite", f"sqlite:///{home}/asked.db", log, seconds))
        if missing := PostgresServer.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
        else:
            postgres = stack.enter_context(PostgresServer(durable=True))
            figures += _rates("PostgreSQL", home, log, rounds, lambda number: postgres.url(f"view_{number}"))
            figures += asyncio.run(_queries("PostgreSQL", postgres.url("asked"), log, seconds))
        if missing := RedisServer.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
        else:
            redis = stack.enter_context(RedisServer())
            figures += _rates("Redis", home, log, rounds, lambda _: redis.url())
        large = home / "large.db"
        asyncio.run(fill(f"sqlite:///{large}", many))
        figures += _rates(
            f"SQLite, {many:,} events", home, large, 1, lambda number: f"sqlite:///{home}/large{number}.db"
        )
    return Report(
        name="views",
        question="How fast is a view built, against a bare loop over the same log, and what do queries feel of it?",
        scale=f"{rounds} rounds of {count:,} events of some 300 bytes, {BUYERS:,} rows; once {many:,} events; queries "
        f"for {seconds:g} s and through the build.",
        bad="below half of the bare loop: then a rebuild by hand in the night would be quicker; queries that wait.",
        bound="processor time: reading a record, its chain, its event, the fold; the database's for the rows.",
        figures=tuple(figures),
    )  # fmt: skip


def _rates(name: str, home: Path, log: Path, rounds: int, fresh: Callable[[int], str]) -> list[Figure]:
    numbers = counting()

    def hand() -> Sample:
        return asyncio.run(_by_hand(fresh(next(numbers)), home, log))

    def view() -> Sample:
        return asyncio.run(_built(fresh(next(numbers)), f"sqlite:///{log}"))

    measured = alternate({"hand": hand, "view": view}, rounds)
    return [
        measured.rate("view", f"{name}: a view is built"),
        measured.rate("hand", f"{name}: bare reads and writes"),
        measured.ratio("view", "hand", f"{name}: ratio", goal=at_least(0.6)),
    ]


async def _by_hand(url: str, home: Path, log: Path) -> Sample:
    written: OnSqlite | OnPostgres | OnRedis
    if url.startswith("sqlite"):
        written = OnSqlite(Path(url.removeprefix("sqlite:///")))
    elif url.startswith("postgresql"):
        written = await OnPostgres.open(url)
    else:
        written = OnRedis(url)
        await written.client.flushdb()  # of what the round before has left, of both sides
    try:
        watch = Stopwatch()
        return watch.stop(await by_hand(log, written))
    finally:
        await written.close()


async def _built(url: str, broker: str) -> Sample:
    """The first version of a fresh view, which reads the log from its beginning."""
    view = view_of(url, broker, 1)
    async with versions_of(view) as (versions, total):
        watch = Stopwatch()
        async with view.running():
            await read_to_the_end(versions, view, 1)
            sample = watch.stop(total)
            async with view.rows() as rows:
                found = [await rows.get(Spent, buyer(number)) for number in range(BUYERS)]
    if (seen := sum(each.sales for each in found if each is not None)) != total:
        raise RuntimeError(f"{view.name} has seen {seen} sales of {total}")
    return sample


async def _queries(name: str, url: str, log: Path, seconds: float) -> list[Figure]:
    broker = f"sqlite:///{log}"
    view = view_of(url, broker, 1)
    async with versions_of(view) as (versions, _), view.running():
        await read_to_the_end(versions, view, 1)
        alone = await _ask(view, seconds, None)
        await versions.book.change(states.begin(2, "a benchmark"))
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.views_side", url, broker, "2",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            meanwhile = await _ask(view, seconds, asyncio.create_task(_told(child.stdout)))
        finally:
            child.stdin.close()
            async with asyncio.timeout(60):
                await child.wait()
    one, other = percentile(alone, 99), percentile(meanwhile, 99)
    return [
        Figure(name=f"{name}: a query, p99", value=one, unit="ms"),
        Figure(name=f"{name}: a query while another version is built, p99", value=other, unit="ms"),
        Figure(name=f"{name}: p99, ratio", value=other / one, unit="", goal=at_most(2)),
    ]


async def _told(output: asyncio.StreamReader) -> None:
    """The other process looks how far it is: to look takes time, which the queries of this one would pay."""
    if await output.readline() != b"read\n":
        raise RuntimeError("the process that builds the other version has ended before it had read the log")


async def _ask(view: View, seconds: float, until: asyncio.Task[None] | None) -> list[float]:
    """In milliseconds, from when each was due. until: go on until it is done, and at least for some."""
    random, took = Random(2), list[float]()
    begin = time.monotonic()
    while True:
        due = begin + len(took) / QUERIES_PER_S
        if (pause := due - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        async with view.rows() as rows:
            if await rows.get(Spent, buyer(random.randrange(BUYERS))) is None:
                raise RuntimeError("a buyer without a row, in a view that has read everything")
        took.append((time.monotonic() - due) * 1e3)
        if until is None and time.monotonic() - begin >= seconds:
            return took
        if until is not None and until.done():
            until.result()
            return took
