"""What does a batch pay for the checkpoint of a partition that many sources publish to?

The watermarks of all sources are one JSON text in the checkpoint's row (ADR 28), written anew by each batch whichever
of them moved. Here a batch is nothing else: a transaction in which one watermark moves and the checkpoint is saved, on
a database that syncs each commit. The CPU is that of this process, which a busy machine changes little; with SQLite the
database's work is part of it. What a server writes to its own log on the way is counted where a query tells it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from servers import MariaDbServer, PostgresServer

from benchmarks.figures import Figure, Report
from benchmarks.rounds import Sample, Stopwatch
from ensue.adapters import make_store
from ensue.engine.books import Books
from ensue.message import Checkpoint, Partition
from ensue.ports import Store
from ensue.tables import CHECKPOINTS

SOURCES = (1, 10, 100, 1000)
SERVICE = "customers"


def run(quick: bool) -> Report:
    batches, rounds = (5, 1) if quick else (300, 5)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        url = f"sqlite:///{Path(name)}/customers.db"
        figures += asyncio.run(_measure("SQLite", url, batches, rounds))
    if not PostgresServer.missing():
        with PostgresServer(durable=True) as postgres:

            def written() -> int:
                return int(float(postgres.psql("sources", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")))

            figures += asyncio.run(_measure("PostgreSQL", postgres.url("sources"), batches, rounds, written))
    if not MariaDbServer.missing():
        with MariaDbServer(durable=True) as mariadb:
            figures += asyncio.run(_measure("MariaDB", mariadb.url("sources"), batches, rounds))
    return Report(
        name="checkpoint_sources",
        question="What does a batch pay for the checkpoint of a partition that many sources publish to?",
        scale=f"{batches} batches of one moved watermark, {rounds} rounds in turn; the median of the rounds.",
        bad="100 sources that cost a batch a millisecond more than one: a company's services may well be so many.",
        bound="the sync of the commit; from a hundred sources on, JSON and the bytes of the row.",
        figures=tuple(figures),
    )


async def _measure(
    name: str, url: str, batches: int, rounds: int, written: Callable[[], int] | None = None
) -> list[Figure]:
    """written: bytes that the server has written to its log so far."""
    store = make_store(url, SERVICE)
    await store.open()
    try:
        partitions = {sources: Partition(SERVICE, "orders", number) for number, sources in enumerate(SOURCES)}
        checkpoints = {sources: _checkpoint(sources) for sources in SOURCES}
        samples: dict[int, list[Sample]] = {sources: [] for sources in SOURCES}
        logged: dict[int, list[float]] = {sources: [] for sources in SOURCES}
        for round_ in range(rounds + 1):  # the first one, which makes the rows, does not count
            for sources in SOURCES:
                before = written() if written is not None else 0
                sample = await _save(store, partitions[sources], checkpoints[sources], batches)
                if round_:
                    samples[sources].append(sample)
                    logged[sources].append((written() - before) / batches / 1e3 if written is not None else 0.0)
        figures = []
        for sources in SOURCES:
            [row] = await store.rows().get(CHECKPOINTS, [partitions[sources].place])
            what = f"{name}: {sources:,} {'source' if sources == 1 else 'sources'}"
            took_ms = [each.wall_s / each.events * 1e3 for each in samples[sources]]
            cpu_us = [each.cpu_us for each in samples[sources]]
            figures += [
                Figure(name=what, value=median(took_ms), unit="ms a batch", low=min(took_ms), high=max(took_ms),
                       about=f"a row of {len(row[3]):,} bytes"),
                Figure(name=f"{what}, CPU of the process", value=median(cpu_us), unit="µs a batch",
                       low=min(cpu_us), high=max(cpu_us)),
            ]  # fmt: skip
            if written is not None:
                figures.append(Figure(name=f"{what}, server's log", value=median(logged[sources]), unit="kB a batch"))
        return figures
    finally:
        await store.close()


def _checkpoint(sources: int) -> Checkpoint:
    return Checkpoint(watermarks={f"service-{number}/{number:08x}": 10**6 + number for number in range(sources)})


async def _save(store: Store, partition: Partition, checkpoint: Checkpoint, batches: int) -> Sample:
    books, names = Books(store, SERVICE), list(checkpoint.watermarks)
    watch = Stopwatch()
    for number in range(batches):
        checkpoint.offset += 1
        checkpoint.watermarks[names[number % len(names)]] += 1
        async with store.transaction() as transaction:
            checkpoint.revision = await books.save_checkpoint(transaction, partition, checkpoint)
    return watch.stop(batches)
