"""Several processes of one service over 12 partitions on PostgreSQL and NATS: their rate, and what a kill costs.

Rate: 1, 2 and 4 processes (`scale_child`) work off the same backlog in turn, each time into a fresh database: an entity
step and an event published for each event. The clock starts when the processes have their connections and are told to
begin, and stops when every event is in its account and all that follows is in the log; taking and sharing the
partitions is part of it. Take-over: two processes, six partitions each, an event a partition every 50 ms. One is killed
(SIGKILL) at a random moment; the time is until each of its partitions has applied an event that was appended after the
kill, the last of them counts. Once so that the other can see by its pid that it is gone, once as between machines,
where only the end of its lease tells.
"""

from __future__ import annotations

import asyncio
import itertools

from servers import NatsServer, PostgresServer

from benchmarks import workload
from benchmarks.ensue_side import append_events, make_service
from benchmarks.figures import Figure, Report, at_least, at_most
from benchmarks.latency import percentile
from benchmarks.rounds import Sample, Stopwatch, alternate
from benchmarks.scale_child import PARTITIONS, processes, tell
from benchmarks.scale_kills import take_over
from benchmarks.workload import IN
from ensue.adapters import make_broker, make_store
from ensue.config import Settings
from ensue.engine.runtime import Runtime

PROCESSES = (1, 2, 4)
#: Events, rounds, kills.
FULL = (40_000, 5, 9)
_ENOUGH_S = 600
_numbers = itertools.count(1)
_DONE = "SELECT (SELECT sum(changes) FROM accounts), (SELECT position FROM ensue_relay WHERE id LIKE '%/%')"
_CHECK = "SELECT sum(changes), sum(balance), (SELECT count(*) FROM ensue_outbox) FROM accounts"


def run(quick: bool) -> Report:
    events, rounds, kills = (500, 1, 1) if quick else FULL
    figures: list[Figure] = []
    for kind in (PostgresServer, NatsServer):
        if missing := kind.missing():
            return _report(events, rounds, kills, [Figure(name=f"left out: {missing}", value=0, unit="")])
    with PostgresServer(durable=True) as postgres:
        with NatsServer() as nats:
            broker = f"nats://127.0.0.1:{nats.port}"
            expected = asyncio.run(_fill(broker, events))
            measured = alternate(
                {str(each): _Drain(postgres, broker, each, events, expected) for each in PROCESSES}, rounds
            )
        for each in PROCESSES:
            figures.append(measured.rate(str(each), f"processes: {each}", unit="steps/s"))
        for each in PROCESSES[1:]:
            figures.append(measured.ratio(str(each), "1", f"ratio, {each} processes to one", goal=at_least(0.9)))
        for where, name in (("here", "take-over on one machine"), ("elsewhere", "take-over as between machines")):
            with NatsServer() as nats:
                database = _database(postgres)
                broker = f"nats://127.0.0.1:{nats.port}"
                asyncio.run(_prepare(postgres, database, broker))
                url = postgres.url(database)
                times = asyncio.run(take_over(url, broker, where, kills))
            figures += [
                Figure(name=f"{name}, p50", value=percentile(times, 50), unit="s", goal=at_most(3)),
                Figure(name=f"{name}, longest", value=max(times), unit="s"),
            ]
    return _report(events, rounds, kills, figures)


def _report(events: int, rounds: int, kills: int, figures: list[Figure]) -> Report:
    return Report(
        name="scale_out",
        question="Do more processes of one service work together, and how long do a killed one's partitions wait?",
        scale=f"{rounds} rounds of {events:,} events over {PARTITIONS} partitions; {kills} kills each.",
        bad="a rate that falls with more processes; a take-over that takes longer than two leases (6 s).",
        bound="the machine's two cores, which the database and the log need as well; the time a lease lives (3 s).",
        figures=tuple(figures),
    )


async def _fill(broker_url: str, events: int) -> tuple[int, int, int]:
    """Append the backlog; return what the database must hold in the end."""
    broker = make_broker(broker_url)
    await broker.open()
    try:
        await broker.ensure_topic(IN, PARTITIONS)
        await append_events(broker, workload.transfers(events), partitions=PARTITIONS)
    finally:
        await broker.close()
    return events, sum(each.amount for each in workload.transfers(events)), events


def _database(postgres: PostgresServer) -> str:
    name = f"scale_{next(_numbers)}"
    postgres.url(name)
    return name


async def _prepare(postgres: PostgresServer, database: str, broker: str) -> None:
    """Make tables and accounts."""
    service, url = make_service(), postgres.url(database)
    settings = Settings(database=url, broker=broker, partitions=PARTITIONS)
    runtime = Runtime(service, make_store(url, service.name), make_broker(broker), settings, tables=service.tables)
    await runtime.start(work=False)
    await runtime.stop()
    values = ", ".join(f"('{key}', '{owner}', 0, 0)" for key, owner, _, _ in workload.account_rows())
    postgres.psql(database, f"INSERT INTO accounts (id, owner, balance, changes) VALUES {values}")


class _Drain:
    """One side of the comparison: so many processes work off the backlog."""

    def __init__(
        self, postgres: PostgresServer, broker: str, processes: int, events: int, expected: tuple[int, int, int]
    ) -> None:
        self._postgres = postgres
        self._broker = broker
        self._processes = processes
        self._events = events
        self._expected = expected

    def __call__(self) -> Sample:
        return asyncio.run(self._drain())

    async def _drain(self) -> Sample:
        import asyncpg

        database = _database(self._postgres)
        url = self._postgres.url(database)
        await _prepare(self._postgres, database, self._broker)
        connection = await asyncpg.connect(url)
        try:
            self._postgres.psql(database, "CHECKPOINT")
            with processes(url, self._broker, self._processes) as running:
                watch = Stopwatch()
                for each in running:
                    tell(each)
                async with asyncio.timeout(_ENOUGH_S):
                    while [tuple(row) for row in await connection.fetch(_DONE)] != [(self._events, self._events)]:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)  # other processes: there is no event to wait for
                sample = watch.stop(self._events)
            [row] = await connection.fetch(_CHECK)
            found = tuple(int(each) for each in row)
            if found != self._expected:
                raise AssertionError(f"changes, balances, events are {found}, expected {self._expected}")
        finally:
            await connection.close()
            self._postgres.drop(database)
        return sample
