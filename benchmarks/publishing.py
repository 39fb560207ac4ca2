"""A publishing step against the hand-written INSERT of the same rows into the same outbox in the same transaction.

A step inserts one order and publishes 1, 10 or 100 events of 300 bytes. By hand (`publishing_hand`): the same driver,
the same INSERT of the order, the outbox's rows in one statement, COMMIT. Ensue: `async with runtime.step()`, the order
by the driver or by the ORM through `step.session`, `step.publish`. Both sides write into the same tables of one server
with its default durability, in turn, a few dozen steps at a time; no relay runs. How often a step waits for the server
is counted by a proxy between the two.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from servers import MariaDbServer, PostgresServer, TcpProxy

from benchmarks import workload
from benchmarks.figures import Figure, Report, at_least, at_most
from benchmarks.publishing_hand import (
    PARTITIONS,
    Order,
    Publish,
    by_asyncmy,
    by_asyncpg,
    by_psycopg,
    by_session,
)
from benchmarks.rounds import Rounds, Sample, Stopwatch
from benchmarks.workload import TransferMade
from ensue import Service
from ensue.adapters import make_broker, make_store
from ensue.config import Settings
from ensue.engine.runtime import Runtime
from ensue.ports import Table

SIZES = (1, 10, 100)
AT_ONCE = 8
ORDERS = Table("orders", ("id", "customer", "total"), "id")
_numbers = itertools.count(1)
_EVENTS = list(workload.transfers(100))


class Way(NamedTuple):
    """One driver. scheme: of Ensue's URL. orm: the order goes through a session."""

    name: str
    scheme: str
    hand: str
    orm: bool = False


POSTGRES = (
    Way("asyncpg", "postgresql", "asyncpg"),
    Way("psycopg", "postgresql+psycopg", "psycopg"),
    Way("SQLAlchemy session", "postgresql", "session", orm=True),
)
MARIADB = (Way("asyncmy", "mariadb", "asyncmy"),)


class Counts(NamedTuple):
    """rounds: alternations. steps: of one event in each; fewer of more events."""

    rounds: int
    steps: int


def run(quick: bool) -> Report:
    counts = Counts(2, 5) if quick else Counts(31, 60)
    figures: list[Figure] = []
    for server_kind, ways in ((PostgresServer, POSTGRES), (MariaDbServer, MARIADB)):
        if missing := server_kind.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
            continue
        with server_kind(durable=True) as server:
            for way in ways:
                url = server.url(f"publishing_{way.hand}", way.scheme)
                figures += asyncio.run(_measure(way, url, server.port, counts))
    return Report(
        name="publishing",
        question="What does a publishing step cost on top of the hand-written INSERT of its outbox rows?",
        scale=f"{counts.rounds} rounds of {counts.steps} steps of one event (of 10 and 100: fewer), in turn.",
        bad="below 0.8: then the outbox would be worth writing by hand.",
        bound="the server's COMMIT with one step at a time; Python and the server on the machine's cores with several.",
        figures=tuple(figures),
    )


async def _measure(way: Way, url: str, port: int, counts: Counts) -> list[Figure]:
    figures: list[Figure] = []
    async with ensue_side(way, url) as ensue, hand_side(way, url, AT_ONCE) as hand:
        for size in SIZES:
            measured = await _alternate(hand, ensue, size, 1, counts)
            figures += [
                measured.rate("hand", f"{way.name}, {_events(size)}: by hand", unit="steps/s"),
                measured.rate("ensue", f"{way.name}, {_events(size)}: Ensue", unit="steps/s"),
                measured.ratio("ensue", "hand", f"{way.name}, {_events(size)}: ratio", goal=at_least(0.9)),
            ]
        measured = await _alternate(hand, ensue, 1, AT_ONCE, counts)
        figures += [
            measured.rate("hand", f"{way.name}, 1 event, {AT_ONCE} steps at once: by hand", unit="steps/s"),
            measured.ratio("ensue", "hand", f"{way.name}, 1 event, {AT_ONCE} steps at once: ratio"),
        ]
    waits = await round_trips(way, url, port, (0, *SIZES))
    figures.append(
        Figure(
            name=f"{way.name}: round trips that events add to a step, most of 1, 10 and 100",
            value=max(waits[size] for size in SIZES) - waits[0],
            unit="",
            goal=at_most(1),
            about=", ".join(f"{_events(size)}: {waits[size]:g} in all" for size in waits),
        )
    )
    return figures


async def _alternate(hand: Publish, ensue: Publish, size: int, workers: int, counts: Counts) -> Rounds:
    steps = max(counts.steps // (1 if size < 10 else 2 if size < 100 else 6), 2)
    samples: dict[str, list[Sample]] = {"hand": [], "ensue": []}
    for number in range(-1, counts.rounds):
        # Who is first in a round changes, so that what one leaves to be done hits both.
        for name, publish in (("hand", hand), ("ensue", ensue)) if number % 2 else (("ensue", ensue), ("hand", hand)):
            sample = await _steps(publish, size, steps * workers, workers)
            if number >= 0:
                samples[name].append(sample)
            await asyncio.sleep(0.01)  # the last notification
    return Rounds(samples)


async def _steps(publish: Publish, size: int, count: int, workers: int) -> Sample:
    events: Sequence[TransferMade] = _EVENTS[:size]

    async def work(worker: int) -> None:
        for _ in range(count // workers):
            await publish(worker, (f"order-{next(_numbers):012d}", "customer", 100), events)

    watch = Stopwatch()
    if workers == 1:
        await work(0)
    else:
        await asyncio.gather(*(work(worker) for worker in range(workers)))
    return watch.stop(count)


def _events(size: int) -> str:
    return "1 event" if size == 1 else f"{size} events"


def hand_side(way: Way, url: str, workers: int) -> AbstractAsyncContextManager[Publish]:
    """The tables must be there."""
    make = {"asyncpg": by_asyncpg, "psycopg": by_psycopg, "session": by_session, "asyncmy": by_asyncmy}[way.hand]
    return make(url.replace("+psycopg", ""), workers)


@asynccontextmanager
async def ensue_side(way: Way, url: str) -> AsyncIterator[Publish]:
    """A service that runs no worker; makes the tables that are missing."""
    service = Service("bench", publishes=[TransferMade])
    settings = Settings(database=url, broker="memory://publishing", partitions=PARTITIONS)
    runtime = Runtime(
        service, make_store(url, service.name), make_broker(settings.broker), settings, tables=Order.metadata
    )

    async def by_driver(_: int, order: tuple[str, str, int], events: Sequence[TransferMade]) -> None:
        async with runtime.step() as step:
            await step.transaction.insert_rows(ORDERS, [order])
            for event in events:
                step.publish(event)

    async def by_orm(_: int, order: tuple[str, str, int], events: Sequence[TransferMade]) -> None:
        async with runtime.step() as step:
            step.session.add(Order(id=order[0], customer=order[1], total=order[2]))
            for event in events:
                step.publish(event)

    await runtime.start(work=False)
    try:
        yield by_orm if way.orm else by_driver
    finally:
        await runtime.stop()


async def round_trips(
    way: Way, url: str, port: int, sizes: Sequence[int], *, by_hand: bool = False
) -> dict[int, float]:
    """Return how often one step of so many events waits for the server, on the step's own connection."""
    steps = 20
    found: dict[int, float] = {}
    async with TcpProxy(port) as proxy:
        there = url.replace(f":{port}/", f":{proxy.port}/")
        async with hand_side(way, there, 1) if by_hand else ensue_side(way, there) as publish:
            for size in sizes:
                await _steps(publish, size, 10, 1)  # statements are prepared
                before = [*proxy.round_trips]
                await _steps(publish, size, steps, 1)
                after = proxy.round_trips
                # Others of the store's connections tell other processes of it, or are opened meanwhile, now and then.
                found[size] = (
                    max(late - early for late, early in itertools.zip_longest(after, before, fillvalue=0)) / steps
                )
    return found
