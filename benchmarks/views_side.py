"""What `benchmarks.views` measures: a log of sales, the view that follows it, and the same written by hand.

`python -m benchmarks.views_side URL BROKER VERSION`: feeds that version of the view, says `read` when it has
read the log to its end, and goes on until its standard input ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import asyncpg
import msgspec
from redis.asyncio import Redis
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table

from benchmarks.view_building import read_to_the_end, versions_of
from ensue import Event, TableRepository, View
from ensue.adapters import make_broker
from ensue.brokers.embedded_sql import OFFSET_BITS
from ensue.cli.giving_way import NICE, give_way
from ensue.event import event_type
from ensue.message import Envelope, OutboxRecord
from ensue.seal import sealed

BUYERS = 5_000
BATCH = 500
PARTITIONS = 8
TOPIC, SOURCE = "bench.sales", "sales/00000000"


class SaleMade(Event, topic=TOPIC, key="buyer"):
    buyer: str
    amount: int
    note: str


@dataclasses.dataclass(slots=True)
class Spent:
    buyer: str
    total: int = 0
    sales: int = 0


tables = MetaData()
spent = Table(
    "spent",
    tables,
    Column("buyer", String(32), primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("sales", Integer, nullable=False),
)
SPENT = TableRepository(Spent, spent)


def view_of(url: str, broker: str, version: int) -> View:
    with_tables = None if url.startswith("redis") else tables
    view = View(
        "history", version=version, tables=with_tables, repositories=[SPENT], database=url, broker=broker,
        partitions=PARTITIONS,
    )  # fmt: skip

    @view.on
    def follow(buyer: Spent | None, event: SaleMade) -> Spent:
        buyer = buyer or Spent(event.buyer)
        buyer.total += event.amount
        buyer.sales += 1
        return buyer

    return view


def sales(count: int) -> Iterator[SaleMade]:
    """Of each buyer one in BUYERS."""
    for number in range(count):
        yield SaleMade(buyer=buyer(number), amount=number % 997 + 1, note="n" * 200)


def buyer(number: int) -> str:
    return f"buyer-{number * 7919 % BUYERS:05d}"


async def fill(url: str, count: int) -> None:
    """Write the log as a relay does, in batches."""
    spec = event_type(SaleMade)
    broker = make_broker(url)
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, PARTITIONS)
        last = [0] * PARTITIONS
        batches: dict[tuple[str, int], list[OutboxRecord]] = {}
        for number, event in enumerate(sales(count), 1):
            place = int(event.buyer[-5:]) % PARTITIONS
            envelope = msgspec.json.encode(Envelope(f"{number:x}", spec.type, "2026-11-27T00:00:00Z"))
            record = OutboxRecord(TOPIC, place, event.buyer, envelope, spec.write(event), number, last[place])
            last[place] = number
            batches.setdefault((TOPIC, place), []).append(sealed(TOPIC, place, SOURCE, record))
            if number % 4_000 == 0:
                await broker.append_many(SOURCE, batches)
                batches = {}
        if batches:
            await broker.append_many(SOURCE, batches)
    finally:
        await broker.close()


# ------------------------------------------------------------------------------------------------------------- by hand

Rows = dict[str, tuple[str, int, int]]


class Written(Protocol):
    """A place that the loop by hand reads rows from, and writes them to together with how far it has read."""

    async def begin(self, buyers: Sequence[str]) -> Rows: ...
    async def commit(self, rows: Iterable[tuple[str, int, int]], offsets: Mapping[int, int]) -> None: ...


class _Sale(msgspec.Struct):
    buyer: str
    amount: int


async def by_hand(log: Path, written: Written) -> int:
    """Read the log of all partitions, some of each at once, and fold it; return how many events there were."""
    decode = msgspec.json.Decoder(_Sale).decode
    connection = sqlite3.connect(log)
    done = 0
    try:
        partitions = [id_ for [id_] in connection.execute("SELECT id FROM partitions WHERE topic = ?", (TOPIC,))]
        after = {each: each << OFFSET_BITS for each in partitions}
        while True:
            events = []
            for each in partitions:
                found = connection.execute(
                    "SELECT id, key, source, position, previous, envelope, data FROM log "
                    "WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
                    (after[each], (each + 1) << OFFSET_BITS, BATCH),
                ).fetchall()
                if found:
                    after[each] = found[-1][0]
                    events += [decode(row[6]) for row in found]
            if not events:
                return done
            rows = await written.begin(sorted({event.buyer for event in events}))
            for event in events:
                _, total, count = rows.get(event.buyer, ("", 0, 0))
                rows[event.buyer] = (event.buyer, total + event.amount, count + 1)
            await written.commit(rows.values(), after)
            done += len(events)
    finally:
        connection.close()


_SELECT = "SELECT buyer, total, sales FROM spent WHERE buyer"
_UPSERT = (
    "INSERT INTO spent (buyer, total, sales) {} ON CONFLICT (buyer) DO UPDATE "
    "SET total = excluded.total, sales = excluded.sales"
)


class OnSqlite:
    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        for each in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "CREATE TABLE spent (buyer VARCHAR(32) PRIMARY KEY, total BIGINT NOT NULL, sales INTEGER NOT NULL)",
            "CREATE TABLE read (part INTEGER PRIMARY KEY, log_offset INTEGER NOT NULL)",
        ):
            self.connection.execute(each)

    async def begin(self, buyers: Sequence[str]) -> Rows:
        self.connection.execute("BEGIN IMMEDIATE")
        marks = ",".join("?" * len(buyers))
        return {row[0]: row for row in self.connection.execute(f"{_SELECT} IN ({marks})", buyers)}

    async def commit(self, rows: Iterable[tuple[str, int, int]], offsets: Mapping[int, int]) -> None:
        self.connection.executemany(_UPSERT.format("VALUES (?, ?, ?)"), rows)
        self.connection.executemany("INSERT OR REPLACE INTO read VALUES (?, ?)", offsets.items())
        self.connection.execute("COMMIT")

    async def close(self) -> None:
        self.connection.close()


class OnPostgres:
    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection
        self._transaction = self.connection.transaction()

    @classmethod
    async def open(cls, url: str) -> OnPostgres:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "CREATE TABLE spent (buyer VARCHAR(32) PRIMARY KEY, total BIGINT NOT NULL, sales INTEGER NOT NULL); "
            "CREATE TABLE read (part BIGINT PRIMARY KEY, log_offset BIGINT NOT NULL)"
        )
        return cls(connection)

    async def begin(self, buyers: Sequence[str]) -> Rows:
        self._transaction = self.connection.transaction()
        await self._transaction.start()
        return {row[0]: tuple(row) for row in await self.connection.fetch(f"{_SELECT} = ANY($1) FOR UPDATE", buyers)}

    async def commit(self, rows: Iterable[tuple[str, int, int]], offsets: Mapping[int, int]) -> None:
        arrays = [list(column) for column in zip(*rows, strict=True)]
        await self.connection.execute(
            _UPSERT.format("SELECT * FROM unnest($1::text[], $2::bigint[], $3::int[])"), *arrays
        )
        await self.connection.execute(
            "INSERT INTO read SELECT * FROM unnest($1::bigint[], $2::bigint[]) "
            "ON CONFLICT (part) DO UPDATE SET log_offset = excluded.log_offset",
            list(offsets), list(offsets.values()),
        )  # fmt: skip
        await self._transaction.commit()

    async def close(self) -> None:
        await self.connection.close()


class OnRedis:
    """Rows as JSON in a key each; what a batch writes is one MULTI."""

    def __init__(self, url: str) -> None:
        self.client: Redis = Redis.from_url(url)

    async def begin(self, buyers: Sequence[str]) -> Rows:
        found = await self.client.mget([f"hand:{each}" for each in buyers])
        return {row[0]: row for row in (msgspec.json.decode(each, type=tuple[str, int, int]) for each in found if each)}

    async def commit(self, rows: Iterable[tuple[str, int, int]], offsets: Mapping[int, int]) -> None:
        pipeline = self.client.pipeline(transaction=True)
        pipeline.mset({f"hand:{row[0]}": msgspec.json.encode(row) for row in rows})
        pipeline.hset("hand-read", mapping={str(part): offset for part, offset in offsets.items()})
        await pipeline.execute()

    async def close(self) -> None:
        await self.client.aclose()


async def _feed(url: str, broker: str, version: int) -> None:
    give_way(NICE)  # as `ensue views rebuild` does
    view = view_of(url, broker, version)
    async with versions_of(view) as (versions, _), view.running():
        await read_to_the_end(versions, view, version)
        print("read", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    _, url, broker, version = sys.argv
    asyncio.run(_feed(url, broker, int(version)))
