"""What a saga costs: against the same transaction as a choreography, and by the length of its journal.

Both flows (`saga_flows`) run with both services in this process, each with a database of its own, over one log.

What is compared: of a saga that calls one other service its own service does two continuations, it begins and it goes
on with the answer, and the other service handles a command: three messages. Of the choreography each service handles
one event: two steps, two messages. The step that begins either does so for many at once, and is counted for neither. So
continuations are to steps as transactions are to transactions.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count as counting
from pathlib import Path
from statistics import median

from servers import NatsServer, PostgresServer

from benchmarks.figures import Figure, Goal, Report, at_least, at_most
from benchmarks.latency import percentile
from benchmarks.plot import bars
from benchmarks.rounds import Sample, alternate
from benchmarks.saga_flows import FLOWS, Urls, latencies, throughput
from benchmarks.saga_journal import growth, replay_ms, row_with

RATE = 50.0
#: Of a saga: how often it goes on; of either flow: how many messages its services handle. Those of the choreography are
#: its steps.
CONTINUATIONS, MESSAGES, STEPS = 2, 3, 2
LENGTHS = (1, 10, 100, 1_000, 9_000)


def run(quick: bool) -> Report:
    count, rounds, paced = (20, 1, 5) if quick else (5_000, 5, 500)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        figures += _compare("SQLite", _files(Path(name)), count, rounds, paced)
    if missing := PostgresServer.missing() or NatsServer.missing():
        figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
    else:
        with PostgresServer(durable=True) as postgres, NatsServer() as nats:
            figures += _compare("PostgreSQL", _databases(postgres, nats), count, rounds, paced)
    more, grown = _journal(quick)
    return Report(
        name="sagas",
        question="What does a saga cost more than the same transaction as handlers of events, and as it grows?",
        scale=f"{rounds} rounds of {count:,} orders, two services in one process; {paced} orders at {RATE:g} a second; "
        "a journal of commands and local steps, half each, without a database.",
        bad="a third of the choreography's rate; twice its time; a saga of a day's work that takes a tenth of a second "
        "to go on.",
        bound="processor time: three messages and two local steps instead of two messages, and the saga's row, read "
        "and written twice. Alone, the disk: a saga begins in its own partition, so four commits follow one another "
        "that are synced, of the step that starts it, its beginning, the command and its end, where a choreography has "
        "three.",
        figures=(*figures, *more),
        plot=bars(grown, "entries", "ms to go on"),
    )


def _compare(store: str, fresh: Callable[[], Iterator[Urls]], count: int, rounds: int, paced: int) -> list[Figure]:
    return [*_rates(store, fresh, count, rounds), *_times(store, fresh, rounds, paced)]


def _rates(store: str, fresh: Callable[[], Iterator[Urls]], count: int, rounds: int) -> list[Figure]:
    def side(name: str) -> Callable[[], Sample]:
        def work() -> Sample:
            with contextmanager(fresh)() as urls:
                return asyncio.run(throughput(FLOWS[name](urls), count))

        return work

    measured = alternate({name: side(name) for name in FLOWS}, rounds)
    unit = "transactions/s"
    sagas = measured.rate("saga", f"{store}: sagas", unit=unit)
    choreography = measured.rate("choreography", f"{store}: choreography", unit=unit)
    ratio = measured.ratio("saga", "choreography", f"{store}: transactions, ratio")
    continuations = f"{store}: continuations of sagas ({CONTINUATIONS} each)"
    steps = f"steps of the choreography ({STEPS} each)"
    return [
        choreography,
        sagas,
        _times_each(choreography, STEPS, f"{store}: {steps}", "steps/s"),
        _times_each(sagas, CONTINUATIONS, continuations, "continuations/s"),
        ratio,
        _times_each(ratio, CONTINUATIONS / STEPS, f"{continuations} / {steps}", "", at_least(0.5)),
        _times_each(
            ratio, MESSAGES / STEPS, f"{store}: messages handled, of sagas ({MESSAGES}) / of the choreography ({STEPS})"
        ),
        Figure(
            name=f"{store}: processor time of a saga / of a choreography",
            value=measured.cpu_us("saga") / measured.cpu_us("choreography"), unit="", about="of this process",
        ),
        measured.ratio(
            "saga with a time limit", "choreography", f"{store}: transactions, ratio, each call with a time limit"
        ),
    ]  # fmt: skip


def _times_each(of: Figure, times: float, name: str, unit: str = "", goal: Goal | None = None) -> Figure:
    """The same in another unit, of which there are so many in one of these."""
    assert of.low is not None
    assert of.high is not None
    return Figure(name=name, value=of.value * times, unit=unit, goal=goal, low=of.low * times, high=of.high * times)


def _times(store: str, fresh: Callable[[], Iterator[Urls]], rounds: int, paced: int) -> list[Figure]:
    taken: dict[str, list[list[float]]] = {"choreography": [], "saga": []}
    for _ in range(min(rounds, 3)):
        for name, each in taken.items():
            with contextmanager(fresh)() as urls:
                each.append(asyncio.run(latencies(FLOWS[name](urls), paced, RATE, max(5, paced // 5))))
    pairs = list(zip(taken["saga"], taken["choreography"], strict=True))
    ratios = [percentile(one, 50) / percentile(other, 50) for one, other in pairs]
    return [
        *(
            Figure(
                name=f"{store}: {name}, p{part}", value=median(percentile(each, part) for each in found), unit="ms"
            )
            for name, found in taken.items()
            for part in (50, 99)
        ),
        Figure(
            name=f"{store}: p50, ratio", value=median(ratios), unit="", goal=at_most(1.3), low=min(ratios),
            high=max(ratios),
        ),
    ]  # fmt: skip


def _journal(quick: bool) -> tuple[list[Figure], dict[int, float]]:
    rounds = 3 if quick else 31
    replayed = replay_ms(row_with(1_000), rounds)
    grown = dict(growth(LENGTHS[:3] if quick else LENGTHS, rounds))
    return [
        Figure(name="replay of 1,000 entries", value=replayed, unit="ms", goal=at_most(10)),
        *(
            Figure(name=f"to go on, {length:,} entries", value=value, unit="ms", about="without the database")
            for length, value in grown.items()
        ),
    ], grown


def _files(directory: Path) -> Callable[[], Iterator[Urls]]:
    numbers = counting()

    def fresh() -> Iterator[Urls]:
        number = next(numbers)
        yield Urls(*(f"sqlite:///{directory}/{name}{number}.db" for name in ("orders", "customers", "log")))

    return fresh


def _databases(postgres: PostgresServer, nats: NatsServer) -> Callable[[], Iterator[Urls]]:
    numbers = counting()

    def fresh() -> Iterator[Urls]:
        number = next(numbers)
        names = [f"{name}_{number}" for name in ("orders", "customers")]
        orders, customers = (postgres.url(name) for name in names)
        postgres.psql("postgres", "CHECKPOINT")
        yield Urls(orders, customers, f"{nats.url()}?prefix=round{number}-")
        for name in names:
            postgres.drop(name)

    return fresh
