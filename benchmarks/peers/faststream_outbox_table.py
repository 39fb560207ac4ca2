"""faststream-outbox, its table as the queue: the consumer's handlers work on the rows of the producer's database.

The shortest of the ways it documents (the other relays to a broker first). Wake-up by LISTEN/NOTIFY; ten workers, a
hundred rows a fetch, finished rows deleted in batches of a hundred. Rows are handled at least once: an inbox by hand.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.peers.ground import ADD_ONCE, Ground, Order, make_inbox

title = "faststream-outbox"
packages = ("faststream-outbox", "faststream", "sqlalchemy", "asyncpg")
guarantee = "once, by an inbox by hand; no order within a key"
backlog = 4_000

QUEUE = "orders"
metadata = MetaData()
outbox = make_outbox_table(metadata, table_name="outbox")
orders_table = Table(
    "orders", MetaData(), Column("id", BigInteger), Column("customer_id", Text), Column("amount", BigInteger),
    Column("payload", Text),
)  # fmt: skip


def _engine(url: str, connections: int) -> AsyncEngine:
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=connections)


async def prepare(ground: Ground) -> None:
    engine = _engine(ground.producer, 1)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    await make_inbox(ground)


class _Producer:
    def __init__(self, broker: OutboxBroker, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._broker = broker
        self._sessions = sessions

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        async with self._sessions() as session:
            await session.execute(insert(orders_table).values(_columns(order)))
            await self._broker.publish(json.loads(order.payload), queue=QUEUE, session=session)
            committing()
            await session.commit()

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._sessions() as session, session.begin():
            await session.execute(insert(orders_table), [_columns(order) for order in orders])
            await self._broker.publish_batch(
                *(json.loads(order.payload) for order in orders), queue=QUEUE, session=session
            )


def _columns(order: Order) -> dict[str, Any]:
    return dict(zip(("id", "customer_id", "amount", "payload"), order.row, strict=True))


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    engine = _engine(ground.producer, 1)
    broker = OutboxBroker(engine, outbox_table=outbox, log_level=logging.WARNING)
    await broker.connect()
    yield _Producer(broker, async_sessionmaker(engine, expire_on_commit=False))
    await engine.dispose()


async def relay(ground: Ground) -> None:
    """The consumer reads the table itself."""


async def consume(ground: Ground) -> None:
    engine = _engine(ground.producer, 20)
    broker = OutboxBroker(engine, outbox_table=outbox, log_level=logging.WARNING)
    pool = await asyncpg.create_pool(ground.consumer, min_size=10, max_size=10)

    @broker.subscriber(
        QUEUE,
        max_workers=10,
        fetch_batch_size=100,
        min_fetch_interval=0.01,
        max_fetch_interval=1.0,
        terminal_flush_batch_size=100,
    )
    async def placed(event: dict[str, Any]) -> None:
        await pool.execute(ADD_ONCE, event["order_id"], event["customer_id"], event["amount"])

    await broker.start()
    await asyncio.Event().wait()
