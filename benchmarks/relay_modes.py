"""Two ways to find a PostgreSQL store's outbox records, side by side: polling, and tailing the log.

For each mode a service's database on a server of its own, with the server's default durability. Steps publish events of
300 bytes, one or a hundred a transaction, while nobody reads; then the store is opened as a relay does and everything
is read in batches of 500. What the server wrote meanwhile, log and tables, is counted from before the first step to
after the last read. The delay is from the end of a step's transaction in one store object until another one, as in
another process, returns its record; a step every 20 to 40 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

import psutil
from servers import PostgresServer

from benchmarks.figures import Figure, Report
from benchmarks.latency import percentile
from ensue.adapters import make_store
from ensue.codec import encode_envelope
from ensue.message import Envelope, OutboxRecord
from ensue.ports import Store

MODES = ("poll", "wal")
_SIZES = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname IN ('ensue_outbox', 'ensue_stamp')"
_ENVELOPE = encode_envelope(Envelope(id="0123456789abcdef0123456789abcdef", type="OrderCreated", time="2024-01-01"))


class Drained(NamedTuple):
    """One mode's reading of a backlog. cpu_us: of this process and of the server, an event. log, table: bytes each."""

    rate: float
    cpu_us: float
    server_us: float
    log: float
    table: float


def run(quick: bool) -> Report:
    figures: list[Figure] = []
    if PostgresServer.missing():
        return _report(quick, [Figure(name=f"left out: {PostgresServer.missing()}", value=0, unit="")])
    with PostgresServer(durable=True) as server:
        for mode in MODES:
            for size, events in ((1, 200 if quick else 20_000), (100, 1000 if quick else 200_000)):
                name = f"{mode}, {size} a transaction"
                drained = asyncio.run(_drain(server, f"{mode}_{size}", mode, size, events))
                figures += [
                    Figure(name=f"{name}: read", value=drained.rate, unit="events/s"),
                    Figure(name=f"{name}: CPU here", value=drained.cpu_us, unit="µs"),
                    Figure(name=f"{name}: CPU of the server", value=drained.server_us, unit="µs"),
                    Figure(name=f"{name}: log", value=drained.log, unit="MB per million"),
                    Figure(name=f"{name}: tables", value=drained.table, unit="MB per million"),
                ]
            delays = asyncio.run(_delays(server, f"{mode}_delay", mode, 20 if quick else 400))
            figures += [
                Figure(name=f"{mode}: delay p50", value=percentile(delays, 50), unit="ms"),
                Figure(name=f"{mode}: delay p99", value=percentile(delays, 99), unit="ms"),
            ]
    return _report(quick, figures)


def _report(quick: bool, figures: list[Figure]) -> Report:
    return Report(
        name="relay_modes",
        question="What do polling and tailing the log cost, and how soon are they?",
        scale=f"{200 if quick else 20_000} events at one a transaction, {1000 if quick else 200_000} at a hundred.",
        bad="a mode that reads slower than steps of one event commit (2,000 to 6,000/s on this class of machine).",
        bound="polling reads what commits have written; a tail decodes in Python.",
        figures=tuple(figures),
    )


def _records(count: int, first: int) -> list[OutboxRecord]:
    return [
        OutboxRecord("orders", number % 12, str(number % 1000), _ENVELOPE, bytes(300))
        for number in range(first, first + count)
    ]


async def _publish(store: Store, size: int, events: int) -> None:
    numbers = iter(range(0, events, size))

    async def write() -> None:
        for first in numbers:
            async with store.transaction() as transaction:
                await transaction.outbox_add(_records(size, first))

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(write())


async def _drain(server: PostgresServer, database: str, mode: str, size: int, events: int) -> Drained:
    url = f"{server.url(database)}?outbox={mode}"
    store = make_store(url, "orders")
    await store.open()
    try:
        server.psql(database, "CHECKPOINT")
        log, table = _log(server, database), _table(server, database)
        await _publish(store, size, events)
    finally:
        await store.close()
    store = make_store(url, "orders")
    await store.open()
    try:
        with _server_cpu(server) as server_cpu:
            cpu, begin = time.process_time(), time.perf_counter()
            position = read = 0
            while read < events:
                found = await store.outbox_after(position, 500)
                if found:
                    read += len(found)
                    position = found[-1].position
                else:
                    await store.outbox_wait(1.0)
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        return Drained(
            rate=events / wall,
            cpu_us=cpu / events * 1e6,
            server_us=server_cpu[0] / events * 1e6,
            log=(_log(server, database) - log) / events,
            table=(_table(server, database) - table) / events,
        )
    finally:
        await store.close()


async def _delays(server: PostgresServer, database: str, mode: str, count: int) -> list[float]:
    url = f"{server.url(database)}?outbox={mode}"
    random = Random(1)
    relay, steps = make_store(url, "orders"), make_store(url, "orders")
    await relay.open()
    await steps.open()
    committed: list[float] = []
    delays: list[float] = []

    async def follow() -> None:
        position = 0
        while len(delays) < count:
            found = await relay.outbox_after(position, 500)
            now = time.perf_counter()
            if not found:
                await relay.outbox_wait(1.0)
                continue
            position = found[-1].position
            # Read before the step that committed it had its turn: no delay to speak of.
            delays.extend((now - committed[len(delays)]) * 1000 if len(delays) < len(committed) else 0.0 for _ in found)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(follow())
            for number in range(count):
                await asyncio.sleep(random.uniform(0.02, 0.04))
                async with steps.transaction() as transaction:
                    await transaction.outbox_add(_records(1, number))
                committed.append(time.perf_counter())
    finally:
        await steps.close()
        await relay.close()
    return delays


def _log(server: PostgresServer, database: str) -> int:
    return int(server.psql(database, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"))


def _table(server: PostgresServer, database: str) -> int:
    return int(server.psql(database, _SIZES))


@contextmanager
def _server_cpu(server: PostgresServer) -> Iterator[list[float]]:
    """Yields a list whose first item is, at the end, the seconds of CPU that all the server's processes took."""
    used = [0.0]
    before = _all_cpu(server)
    yield used
    used[0] = sum(seconds - before.get(pid, 0.0) for pid, seconds in _all_cpu(server).items())


def _all_cpu(server: PostgresServer) -> dict[int, float]:
    found: dict[int, float] = {}
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue  # it ended between two looks
    return found
