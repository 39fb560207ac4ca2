"""Publishing steps as somebody writes them by hand: the order's row and the outbox's rows in one transaction.

The statements that a careful program sends: prepared, all events of a step in one of them. The rows are those of
Ensue's outbox with the same contents; who writes them by hand has to encode the event and its envelope as well.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Double, Integer, LargeBinary, MetaData, String, Table, Text, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.bare_files import Headers
from benchmarks.bare_loop import moment
from benchmarks.workload import TransferMade
from ensue.chain import partition_of

PARTITIONS = 12
#: (worker, order's row, events): one publishing step. Workers run at once.
Publish = Callable[[int, tuple[str, str, int], Sequence[TransferMade]], Awaitable[None]]

_COLUMNS = "topic, partition_no, record_key, envelope, data, written_at"
_encode = msgspec.json.Encoder().encode
_ids = itertools.count(1)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    customer: Mapped[str] = mapped_column(String(64))
    total: Mapped[int] = mapped_column(Integer)


outbox = Table(
    "ensue_outbox",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("topic", Text),
    Column("partition_no", Integer),
    Column("record_key", Text),
    Column("envelope", LargeBinary),
    Column("data", LargeBinary),
    Column("written_at", Double),
)


def rows_of(events: Sequence[TransferMade]) -> list[tuple[Any, ...]]:
    now, stamp = moment()
    correlation = f"fedcba9876543210-{next(_ids):x}"
    return [
        (
            "transfers",
            partition_of(event.account_id, PARTITIONS),
            event.account_id,
            _encode(Headers(f"89abcdef01234567-{next(_ids):x}", "transfers.TransferMade.v1", stamp, correlation)),
            _encode(event),
            now,
        )
        for event in events
    ]


@asynccontextmanager
async def by_asyncpg(url: str, workers: int) -> AsyncIterator[Publish]:
    import asyncpg

    one = f"INSERT INTO ensue_outbox ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6)"
    many = (
        f"INSERT INTO ensue_outbox ({_COLUMNS}) "
        "SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::bytea[], $5::bytea[], $6::float8[])"
    )
    async with AsyncExitStack() as stack:
        connections = [await asyncpg.connect(url) for _ in range(workers)]
        for each in connections:
            stack.push_async_callback(each.close)

        async def publish(worker: int, order: tuple[str, str, int], events: Sequence[TransferMade]) -> None:
            connection = connections[worker]
            async with connection.transaction():
                await connection.execute("INSERT INTO orders (id, customer, total) VALUES ($1, $2, $3)", *order)
                rows = rows_of(events)
                if len(rows) == 1:
                    await connection.execute(one, *rows[0])
                elif rows:
                    await connection.execute(many, *map(list, zip(*rows, strict=True)))

        yield publish


@asynccontextmanager
async def by_psycopg(url: str, workers: int) -> AsyncIterator[Publish]:
    import psycopg

    one = f"INSERT INTO ensue_outbox ({_COLUMNS}) VALUES (%s, %s, %s, %b, %b, %s)"
    many = (
        f"INSERT INTO ensue_outbox ({_COLUMNS}) "
        "SELECT * FROM unnest(%b::text[], %b::int[], %b::text[], %b::bytea[], %b::bytea[], %b::float8[])"
    )
    async with AsyncExitStack() as stack:
        connections = [
            await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=2) for _ in range(workers)
        ]
        for each in connections:
            stack.push_async_callback(each.close)

        async def publish(worker: int, order: tuple[str, str, int], events: Sequence[TransferMade]) -> None:
            connection = connections[worker]
            async with connection.transaction():
                await connection.execute("INSERT INTO orders (id, customer, total) VALUES (%s, %s, %s)", order)
                rows = rows_of(events)
                if len(rows) == 1:
                    await connection.execute(one, rows[0])
                elif rows:
                    await connection.execute(many, [list(each) for each in zip(*rows, strict=True)])

        yield publish


@asynccontextmanager
async def by_session(url: str, workers: int) -> AsyncIterator[Publish]:
    """The ORM over asyncpg: an object added, the rows by an INSERT of SQLAlchemy's."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=workers)
    names = _COLUMNS.split(", ")
    statement = insert(outbox)

    async def publish(_: int, order: tuple[str, str, int], events: Sequence[TransferMade]) -> None:
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            session.add(Order(id=order[0], customer=order[1], total=order[2]))
            await session.flush()
            if events:
                await session.execute(statement, [dict(zip(names, row, strict=True)) for row in rows_of(events)])

    try:
        yield publish
    finally:
        await engine.dispose()


@asynccontextmanager
async def by_asyncmy(url: str, workers: int) -> AsyncIterator[Publish]:
    import asyncmy
    from sqlalchemy import make_url

    place = make_url(url)
    statement = f"INSERT INTO ensue_outbox ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)"
    async with AsyncExitStack() as stack:
        connections = [
            await asyncmy.connect(
                host=place.host,
                port=place.port,
                user=place.username,
                database=place.database,
                autocommit=True,
                binary_prefix=True,
            )
            for _ in range(workers)
        ]
        for each in connections:
            stack.push_async_callback(each.ensure_closed)

        async def publish(worker: int, order: tuple[str, str, int], events: Sequence[TransferMade]) -> None:
            connection = connections[worker]
            await connection.begin()
            async with connection.cursor() as cursor:
                await cursor.execute("INSERT INTO orders (id, customer, total) VALUES (%s, %s, %s)", order)
                if events:
                    await cursor.executemany(statement, rows_of(events))  # it makes one INSERT of them
            await connection.commit()

        yield publish
