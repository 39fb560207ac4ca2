"""sagaz: its outbox in PostgreSQL, its worker as the relay, its inbox at the consumer; the broker is NATS JetStream.

sagaz has brokers for Kafka, RabbitMQ and Redis; its `BaseBroker` is the place for another, and the one here publishes
to JetStream. Its inbox by `process_idempotent` commits before the handler runs, so a crash in between loses the event
for ever; `check_and_insert_inbox` with the handler's own connection does not, and is faster: it is what runs here. Its
optimistic publisher calls `publish` with arguments that none of its brokers takes, so the worker polls, every 5 ms.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import nats
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from sagaz.core.outbox import BaseBroker, OutboxConfig, OutboxEvent, OutboxWorker
from sagaz.core.storage.backends.postgresql.outbox import PostgreSQLOutboxStorage

from benchmarks.peers.ground import ADD_TO_CUSTOMER, INSERT_ORDER, Ground, Order, connected

title = "sagaz"
packages = ("sagaz", "nats-py", "asyncpg")
guarantee = "once, by its inbox in the handler's transaction; no order within a key"
backlog = 4_000

STREAM, SUBJECT = "orders", "OrderPlaced"
CONCURRENCY = 10


async def _storage(url: str, connections: int) -> PostgreSQLOutboxStorage:
    storage = PostgreSQLOutboxStorage(url, pool_min_size=connections, pool_max_size=connections)
    await storage.initialize()
    return storage


async def prepare(ground: Ground) -> None:
    for url in (ground.producer, ground.consumer):
        await (await _storage(url, 1)).close()
    connection = await nats.connect(ground.nats)
    await connection.jetstream().add_stream(name=STREAM, subjects=[SUBJECT])
    await connection.close()


class _Producer:
    def __init__(self, storage: PostgreSQLOutboxStorage, connection: asyncpg.Connection[Any]) -> None:
        self._storage = storage
        self._connection = connection

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        transaction = self._connection.transaction()
        await transaction.start()
        await self._connection.execute(INSERT_ORDER, *order.row)
        await self._storage.insert(_event(order), connection=self._connection)
        committing()
        await transaction.commit()

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._connection.transaction():
            await self._connection.executemany(INSERT_ORDER, [order.row for order in orders])
            for order in orders:  # it has no call for several
                await self._storage.insert(_event(order), connection=self._connection)


def _event(order: Order) -> OutboxEvent:
    return OutboxEvent(saga_id=f"order-{order.id}", event_type=SUBJECT, payload=json.loads(order.payload))


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    storage = await _storage(ground.producer, 1)
    async with connected(ground.producer) as connection:
        yield _Producer(storage, connection)
    await storage.close()


class JetStreamBroker(BaseBroker):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._stream: JetStreamContext | None = None

    async def connect(self) -> None:
        self._stream = (await nats.connect(self._url)).jetstream()
        self._connected = True

    async def publish(
        self, topic: str, message: bytes, headers: dict[str, str] | None = None, key: str | None = None
    ) -> None:
        assert self._stream is not None
        await self._stream.publish(topic, message, headers=headers)

    async def close(self) -> None:
        self._connected = False

    async def health_check(self) -> bool:
        return self._connected


async def relay(ground: Ground) -> None:
    broker = JetStreamBroker(ground.nats)
    await broker.connect()
    config = OutboxConfig(batch_size=500, poll_interval_seconds=0.005)
    await OutboxWorker(await _storage(ground.producer, CONCURRENCY), broker, config).start()


async def consume(ground: Ground) -> None:
    storage = await _storage(ground.consumer, 1)
    pool = await asyncpg.create_pool(ground.consumer, min_size=CONCURRENCY, max_size=CONCURRENCY)
    stream = (await nats.connect(ground.nats)).jetstream()
    subscription = await stream.pull_subscribe(SUBJECT, durable="customers", stream=STREAM)

    async def handle(message: Msg) -> None:
        told = json.loads(message.data)
        event = told["payload"]
        async with pool.acquire() as connection, connection.transaction():
            if not await storage.check_and_insert_inbox(
                told["event_id"], "customers", SUBJECT, told["event_type"], event, connection=connection
            ):
                await connection.execute(ADD_TO_CUSTOMER, event["customer_id"], event["amount"])
        await message.ack()

    while True:
        messages: list[Msg] = []
        with suppress(nats.errors.TimeoutError):
            messages = await subscription.fetch(100, timeout=1.0)
        await asyncio.gather(*(handle(message) for message in messages))
