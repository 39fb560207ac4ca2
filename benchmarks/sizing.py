"""How much disk does an event take, in each place that keeps it, and does it come back after retention?

Events of 300 bytes with an envelope as published ones have go the way of all events: steps put batches of 100 in an
outbox, a relay's calls read them and append them to a log. Read from the files (SQLite, after the write-ahead log was
copied) and from `pg_total_relation_size` (PostgreSQL, vacuumed every 5,000 events, oftener than autovacuum comes), and
given for a million events. Then everything is pruned and as much is written again: with retention, a database grows no
further than that.

`python -m benchmarks.sizing [--write]` puts the figures into docs/explanation/sizing.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from rich.console import Console
from servers import PostgresServer

from benchmarks import machine, report
from benchmarks.figures import Figure, Report
from ensue.adapters import make_broker, make_store
from ensue.codec import encode_envelope
from ensue.message import Envelope, OutboxRecord
from ensue.ports import Broker, Store

PARTITIONS = 8
DATA_BYTES = 300
TOPIC = "orders"
MILLION = 1_000_000
PAGE = Path(__file__).parents[1] / "docs/explanation/sizing.md"
_STEP = 100
_BATCH = 500
_TIDY_EVERY = 5_000


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on disk: of outbox, of log, and what the database wrote to its own log on the way (0: not measured)."""

    outbox: int
    log: int
    written: int = 0

    def since(self, before: Sizes) -> Sizes:
        return Sizes(self.outbox - before.outbox, self.log - before.log, self.written - before.written)


def run(quick: bool) -> Report:
    events = 2_000 if quick else 100_000
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        directory = Path(name)
        stores = f"sqlite:///{directory}/orders.db", f"sqlite:///{directory}/log.db"
        figures += _figures("SQLite", events, asyncio.run(_measure(*stores, events, _sqlite_sizes(directory))))
    if not PostgresServer.missing():
        with PostgresServer(durable=True) as server:  # with full page images in its log, as in production
            url = server.url("sizing")
            figures += _figures("PostgreSQL", events, asyncio.run(_measure(url, url, events, _postgres_sizes(server))))
    return Report(
        name="sizing",
        question="How much disk do a million events take, and does retention give it back?",
        scale=f"{events:,} events of {DATA_BYTES} bytes over {PARTITIONS} partitions, given for a million.",
        bad="a second life that takes as much again: then retention would not bound the disk.",
        bound="row headers and indexes beside the data itself.",
        figures=tuple(figures),
    )


def _figures(name: str, events: int, found: tuple[Sizes, Sizes]) -> list[Figure]:
    first, again = found
    scale = MILLION / events / 1e6
    figures = [
        Figure(name=f"{name}: outbox", value=first.outbox * scale, unit="MB per million"),
        Figure(name=f"{name}: log", value=first.log * scale, unit="MB per million"),
        Figure(
            name=f"{name}: outbox, growth in a second life",
            value=max(again.outbox, 0) * scale,
            unit="MB per million",
            about="beyond its size after the first, when everything before was pruned",
        ),
        Figure(name=f"{name}: log, growth in a second life", value=max(again.log, 0) * scale, unit="MB per million"),
    ]
    if first.written:
        figures.append(
            Figure(name=f"{name}: write-ahead log", value=first.written * scale, unit="MB per million",
                   about="written on the way, for outbox and log together; kept only until it is archived")
        )  # fmt: skip
    return figures


async def _measure(database: str, log: str, events: int, sizes: Callable[[], Awaitable[Sizes]]) -> tuple[Sizes, Sizes]:
    store, broker = make_store(database, "orders"), make_broker(log)
    await store.open()
    try:
        await broker.open()
        try:
            await broker.ensure_topic(TOPIC, PARTITIONS)
            empty = await sizes()
            through = await _live(store, broker, 0, events, sizes)
            full = await sizes()
            await _prune(store, broker, through)
            await sizes()
            await _live(store, broker, through, events, sizes)
            return full.since(empty), (await sizes()).since(full)
        finally:
            await broker.close()
    finally:
        await store.close()


async def _live(store: Store, broker: Broker, position: int, events: int, tidy: Callable[[], Awaitable[object]]) -> int:
    """Publish and relay; return the last position."""
    for first in range(0, events, _STEP):
        async with store.transaction() as transaction:
            await transaction.outbox_add([_record(first + number) for number in range(min(_STEP, events - first))])
        while records := await store.outbox_after(position, _BATCH):
            batches: dict[tuple[str, int], list[OutboxRecord]] = {}
            for record in records:
                batches.setdefault((record.topic, record.partition), []).append(record)
            await broker.append_many(store.source, batches)
            position = records[-1].position
        if first % _TIDY_EVERY == 0:
            await tidy()
    return position


async def _prune(store: Store, broker: Broker, through: int) -> None:
    later = time.time() + 3600
    while await store.outbox_prune(later, through, 10_000):
        pass
    for number in range(PARTITIONS):
        while await broker.prune(TOPIC, number, later, 10_000):
            pass


def _record(number: int) -> OutboxRecord:
    envelope = Envelope(
        id=f"0193b4c5-7d2a-7cc1-9a3f-{number:012d}",
        type="orders.OrderCreated.v1",
        time="2026-01-01T00:00:00.000000Z",
        correlation_id=f"0193b4c5-7d2a-7cc1-9a3f-{number:012d}",
        causation_id=f"0193b4c5-7d2a-7cc1-9a3f-{number:012d}",
    )
    key = f"0193b4c5-0000-7cc1-9a3f-{number % 10_000:012d}"
    return OutboxRecord(TOPIC, number % PARTITIONS, key, encode_envelope(envelope), bytes(DATA_BYTES))


def _sqlite_sizes(directory: Path) -> Callable[[], Awaitable[Sizes]]:
    async def sizes() -> Sizes:
        found = []
        for name in ("orders.db", "log.db"):
            with closing(sqlite3.connect(directory / name)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            found.append((directory / name).stat().st_size)
        return Sizes(*found)

    return sizes


def _postgres_sizes(server: PostgresServer) -> Callable[[], Awaitable[Sizes]]:
    async def sizes() -> Sizes:
        for table in ("ensue_outbox", "ensue_log.records"):
            await asyncio.to_thread(server.psql, "sizing", f"VACUUM {table}")  # as autovacuum does in time
        row = await asyncio.to_thread(
            server.psql,
            "sizing",
            "SELECT pg_total_relation_size('ensue_outbox'), pg_total_relation_size('ensue_log.records'), "
            "pg_current_wal_lsn() - '0/0'::pg_lsn",
        )
        return Sizes(*(int(float(each)) for each in row.split("|")))

    return sizes


def main() -> None:
    found = run(quick=False)
    report.show(found, Console())
    if "--write" in sys.argv[1:]:
        blocks = {found.name: report.as_markdown(found), "machine": report.machine_as_markdown(machine.describe())}
        report.write_into(PAGE, blocks)


if __name__ == "__main__":
    main()
