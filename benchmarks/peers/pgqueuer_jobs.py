"""PgQueuer: the event is a job, put into the producer's database in the order's transaction.

The consumer runs the jobs, up to a hundred a dequeue, and writes to its own database through a pool. Wake-up by
LISTEN/NOTIFY. A job whose worker dies is run again, so an inbox by hand.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.ground import ADD_ONCE, INSERT_ORDER, Ground, Order, connected, make_inbox

title = "PgQueuer"
packages = ("pgqueuer", "asyncpg")
guarantee = "once, by an inbox by hand; no order within a key"
backlog = 6_000

ENTRYPOINT = "order_placed"


async def prepare(ground: Ground) -> None:
    async with connected(ground.producer) as connection:
        await Queries.from_asyncpg_connection(connection).install()
    await make_inbox(ground)


class _Producer:
    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._queries = Queries.from_asyncpg_connection(connection)

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        transaction = self._connection.transaction()
        await transaction.start()
        await self._connection.execute(INSERT_ORDER, *order.row)
        await self._queries.enqueue(ENTRYPOINT, order.payload.encode())
        committing()
        await transaction.commit()

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._connection.transaction():
            await self._connection.executemany(INSERT_ORDER, [order.row for order in orders])
            await self._queries.enqueue(
                [ENTRYPOINT] * len(orders), [order.payload.encode() for order in orders], [0] * len(orders)
            )


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    async with connected(ground.producer) as connection:
        yield _Producer(connection)


async def relay(ground: Ground) -> None:
    """The consumer reads the queue itself."""


async def consume(ground: Ground) -> None:
    jobs = await asyncpg.create_pool(ground.producer, min_size=4, max_size=4)
    pool = await asyncpg.create_pool(ground.consumer, min_size=10, max_size=10)
    queue = PgQueuer.from_asyncpg_pool(jobs)

    @queue.entrypoint(ENTRYPOINT)
    async def placed(job: Job) -> None:
        assert job.payload is not None
        event = json.loads(job.payload)
        await pool.execute(ADD_ONCE, event["order_id"], event["customer_id"], event["amount"])

    await queue.run(batch_size=100)
