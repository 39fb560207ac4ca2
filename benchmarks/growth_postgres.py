"""Is PostgreSQL's outbox as fast at 10,000,000 rows as at 100,000, with retention running?

Two databases of one server with default durability. Both outboxes are filled by SQL with valid records that are sent
(`growth_fill`); those of the large one come of age at the rate at which they seem to have been written, as in a system
that has run for long. In turn on the small and the large one: steps publish single events, eight at a time; the relay's
reading stamps and returns as many; retention's statement deletes the oldest. While steps on the large one are measured,
retention runs beside them as in production (`engine.retention`) and takes away what has come of age. (Not beside the
reads: a round of retention stamps what it finds, and would do half of their work.)
Before that it catches up with what came of age while the tables were filled, as after a long stop, under steps.
At last the plans of the statements that loops send are looked at in the large database.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from servers import PostgresServer

from benchmarks import workload
from benchmarks.figures import Figure, Report, at_least, at_most
from benchmarks.growth_fill import fill
from benchmarks.growth_plans import scans
from benchmarks.rounds import Rounds, Sample, Stopwatch
from benchmarks.workload import TransferMade
from ensue import Service
from ensue.adapters import make_broker, make_store
from ensue.config import EngineConfig, Settings
from ensue.engine.retention import Retention, prune_once
from ensue.engine.runtime import Runtime

PARTITIONS = 12
AT_ONCE = 8
#: So fast do the large outbox's rows come of age, rows/s.
AGEING = 1_000
#: A log that is not recycled every few seconds of the filling.
SETTINGS = {"max_wal_size": "4GB"}
_CHUNK = 1_000
_EVENTS = list(workload.transfers(1000))


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """small, large: rows. steps: of one round. prunes: calls of _CHUNK rows in one round."""

    small: int
    large: int
    rounds: int
    steps: int
    prunes: int


def run(quick: bool) -> Report:
    sizes = Sizes(4_000, 20_000, 1, 40, 1) if quick else Sizes(100_000, 10_000_000, 9, 3_000, 10)
    if missing := PostgresServer.missing():
        return _report(sizes, [Figure(name=f"left out: {missing}", value=0, unit="")])
    with PostgresServer(durable=True, settings=SETTINGS) as server:
        figures = asyncio.run(_measure(server, sizes))
    return _report(sizes, figures)


def _report(sizes: Sizes, figures: list[Figure]) -> Report:
    return Report(
        name="growth_postgres",
        question=f"Is anything slower with {sizes.large:,} rows in PostgreSQL's outbox than with {sizes.small:,}?",
        scale=f"{sizes.rounds} rounds of {sizes.steps:,} events and {sizes.prunes * _CHUNK:,} rows pruned, in turn.",
        bad="a step, a read or a pruning that takes longer the more was ever sent.",
        bound="the server's COMMIT and the machine's cores; the large outbox is 40 times the server's own cache.",
        figures=tuple(figures),
    )


async def _measure(server: PostgresServer, sizes: Sizes) -> list[Figure]:
    retention_s = sizes.large / AGEING
    for name in ("small", "large"):
        async with _running(server, name, retention_s):
            pass  # tables
    began = time.perf_counter()
    fill(server, "small", PARTITIONS, sizes.small, oldest_s=retention_s, per_s=AGEING)
    fill(server, "large", PARTITIONS, sizes.large, oldest_s=retention_s, per_s=AGEING)
    filled_s = time.perf_counter() - began
    async with AsyncExitStack() as stack:
        small, large = [
            _Side(await stack.enter_async_context(_running(server, name, retention_s)), sizes)
            for name in ("small", "large")
        ]
        catching_up = await _catch_up(large)
        steps, reads, prunes = await _rounds(small, large, sizes.rounds)
        figures = [
            Figure(name="filling both outboxes", value=filled_s, unit="s"),
            *_compared(steps, "steps", "steps/s"),
            *_compared(reads, "relay's reading", "events/s"),
            *_compared(prunes, "pruning", "rows/s"),
            Figure(name="pruned beside the large one's steps", value=large.pruned_beside, unit="rows"),
            *catching_up,
        ]
    bad = await scans(server.url("large"), sizes.large)
    figures.append(
        Figure(
            name="statements of loops that would read the whole outbox",
            value=len(bad),
            unit="",
            goal=at_most(0),
            about=", ".join(bad),
        )
    )
    return figures


def _compared(rounds: Rounds, what: str, unit: str) -> list[Figure]:
    return [
        rounds.rate("small", f"{what}, small outbox", unit=unit),
        rounds.rate("large", f"{what}, large outbox", unit=unit),
        rounds.ratio("large", "small", f"{what}: ratio", goal=at_least(0.9)),
    ]


async def _rounds(small: _Side, large: _Side, rounds: int) -> tuple[Rounds, Rounds, Rounds]:
    samples: list[dict[str, list[Sample]]] = [{"small": [], "large": []} for _ in range(3)]
    for number in range(-1, rounds):
        for name, side in (("small", small), ("large", large)):
            beside = large.retention() if name == "large" else _nothing()
            async with beside:
                measured = [await side.publish()]
            await side.read()
            await side.write()
            measured += [await side.read(), await side.prune()]
            if number >= 0:
                for found, sample in zip(samples, measured, strict=True):
                    found[name].append(sample)
    return Rounds(samples[0]), Rounds(samples[1]), Rounds(samples[2])


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


async def _catch_up(large: _Side) -> list[Figure]:
    """Prune what came of age meanwhile, while steps go on."""
    pruning = asyncio.create_task(_timed(lambda: prune_once(large.runtime.context)))
    began, steps = time.perf_counter(), 0
    while not pruning.done():
        steps += (await large.publish(10 * AT_ONCE)).events
    seconds = time.perf_counter() - began
    pruned, pruning_s = await pruning
    await large.read()
    return [
        Figure(name="retention that catches up", value=pruned / pruning_s, unit="rows/s", about=f"{pruned:,} rows"),
        Figure(name="steps meanwhile", value=steps / seconds, unit="steps/s"),
    ]


async def _timed(work: Callable[[], Awaitable[int]]) -> tuple[int, float]:
    began = time.perf_counter()
    return await work(), time.perf_counter() - began


class _Side:
    """One database and what is measured in it. pruned_beside: rows that retention took away, beside."""

    def __init__(self, runtime: Runtime, sizes: Sizes) -> None:
        self.runtime = runtime
        self.pruned_beside = 0
        self._sizes = sizes
        self._position = sizes.small if runtime.settings.database.endswith("small") else sizes.large

    async def publish(self, count: int = 0) -> Sample:
        count = count or self._sizes.steps
        numbers = itertools.cycle(_EVENTS)

        async def work() -> None:
            for _ in range(count // AT_ONCE):
                async with self.runtime.step() as step:
                    step.publish(next(numbers))

        watch = Stopwatch()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return watch.stop(count // AT_ONCE * AT_ONCE)

    async def write(self) -> None:
        """As many events as `publish` gives, a hundred a transaction: something to read."""
        for _ in range(max(self._sizes.steps // 100, 1)):
            async with self.runtime.step() as step:
                for event in _EVENTS[:100]:
                    step.publish(event)

    async def read(self) -> Sample:
        """What a relay reads, to the end, giving each record its position."""
        store, books, count = self.runtime.store, self.runtime.context.books, 0
        watch = Stopwatch()
        while found := await store.outbox_after(self._position, 500):
            count += len(found)
            self._position = found[-1].position
            await books.save_relay_position(store.source, self._position)
        return watch.stop(count)

    async def prune(self) -> Sample:
        """The oldest rows, whatever their age."""
        store, count = self.runtime.store, 0
        watch = Stopwatch()
        for _ in range(self._sizes.prunes):
            count += await store.outbox_prune(time.time() + 3600, self._position, _CHUNK)
        return watch.stop(count)

    @asynccontextmanager
    async def retention(self) -> AsyncIterator[None]:
        before = await self._first()
        task = asyncio.create_task(Retention(self.runtime.context).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()  # it ended by an error: that is no measurement
            self.pruned_beside += await self._first() - before

    async def _first(self) -> int:
        """The first position that is left."""
        [record, *_] = await self.runtime.store.outbox_after(0, 1)
        return record.position


@asynccontextmanager
async def _running(server: PostgresServer, name: str, retention_s: float) -> AsyncIterator[Runtime]:
    service = Service("bench", publishes=[TransferMade])
    url = server.url(name)
    engine = EngineConfig(retention_s=retention_s, retention_interval_s=0.25)
    settings = Settings(database=url, broker=f"memory://{name}", partitions=PARTITIONS, engine=engine)
    runtime = Runtime(service, make_store(url, service.name), make_broker(settings.broker), settings)
    await runtime.start(work=False)
    try:
        yield runtime
    finally:
        await runtime.stop()
