"""FastStream on NATS JetStream, with an outbox table and a relay written by hand as its users write them.

The relay is a process of its own: it publishes what is in the outbox in batches, gathers the acknowledgements, deletes,
and looks again after 5 ms when there was nothing. FastStream's pull subscriber fetches up to 100 messages and handles
them at once, each in a transaction (here one statement) of its own, which skips what the inbox knows already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import DeliverPolicy

from benchmarks.peers.ground import ADD_ONCE, INSERT_ORDER, Ground, Order, connected, make_inbox

title = "FastStream + outbox by hand"
packages = ("faststream", "nats-py", "asyncpg")
guarantee = "once, by an inbox by hand; no order within a key"
backlog = 8_000

STREAM, SUBJECT = "orders", "orders.placed"
POLL_S = 0.005
BATCH = 500
INSERT_EVENT = "INSERT INTO outbox (payload) VALUES ($1)"


async def prepare(ground: Ground) -> None:
    async with connected(ground.producer) as connection:
        await connection.execute("CREATE TABLE outbox (id bigserial PRIMARY KEY, payload text NOT NULL)")
    await make_inbox(ground)
    async with NatsBroker(ground.nats, log_level=logging.WARNING) as broker:
        await broker.connect()
        await broker.config.connection_state.stream.add_stream(name=STREAM, subjects=[SUBJECT])


class _Producer:
    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        transaction = self._connection.transaction()
        await transaction.start()
        await self._connection.execute(INSERT_ORDER, *order.row)
        await self._connection.execute(INSERT_EVENT, order.payload)
        committing()
        await transaction.commit()

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._connection.transaction():
            await self._connection.executemany(INSERT_ORDER, [order.row for order in orders])
            await self._connection.executemany(INSERT_EVENT, [(order.payload,) for order in orders])


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    async with connected(ground.producer) as connection:
        yield _Producer(connection)


async def relay(ground: Ground) -> None:
    broker = NatsBroker(ground.nats, log_level=logging.WARNING)
    await broker.connect()
    async with connected(ground.producer) as connection:
        while True:
            async with connection.transaction():
                rows = await connection.fetch(
                    "SELECT id, payload FROM outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED", BATCH
                )
                if rows:
                    await asyncio.gather(*(_publish(broker, row["payload"]) for row in rows))
                    await connection.execute("DELETE FROM outbox WHERE id = ANY($1)", [row["id"] for row in rows])
            if not rows:
                await asyncio.sleep(POLL_S)


async def _publish(broker: NatsBroker, payload: str) -> None:
    await broker.publish(payload.encode(), SUBJECT, stream=STREAM, headers={"content-type": "application/json"})


async def consume(ground: Ground) -> None:
    broker = NatsBroker(ground.nats, log_level=logging.WARNING)
    pool = await asyncpg.create_pool(ground.consumer, min_size=10, max_size=10)

    @broker.subscriber(
        SUBJECT,
        stream=JStream(STREAM, declare=False),
        durable="customers",
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        pull_sub=PullSub(batch_size=100, timeout=1.0),
    )
    async def placed(event: dict[str, Any]) -> None:
        await pool.execute(ADD_ONCE, event["order_id"], event["customer_id"], event["amount"])

    await broker.start()
    await asyncio.Event().wait()
