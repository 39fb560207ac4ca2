"""Procrastinate: the event is a job, deferred on the connection of the order's transaction.

The consumer is a worker with ten jobs at once; finished jobs are deleted. Wake-up by LISTEN/NOTIFY. A job whose worker
dies is stalled and run again, so an inbox by hand.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
from procrastinate import App, PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers.ground import ADD_ONCE, Ground, Order, make_inbox

title = "Procrastinate"
packages = ("procrastinate", "psycopg", "asyncpg")
guarantee = "once, by an inbox by hand; no order within a key"
backlog = 2_000

TASK, QUEUE = "order_placed", "orders"
CONCURRENCY = 10
INSERT_ORDER = "INSERT INTO orders (id, customer_id, amount, payload) VALUES (%s, %s, %s, %s)"


def _app(url: str, connections: int) -> App:
    return App(connector=PsycopgConnector(conninfo=url, min_size=connections, max_size=connections))


async def prepare(ground: Ground) -> None:
    async with _app(ground.producer, 1).open_async() as app:
        await app.schema_manager.apply_schema_async()
    await make_inbox(ground)


class _Producer:
    def __init__(self, app: App, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._job = app.configure_task(TASK, queue=QUEUE, connection=connection)

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        await self._connection.execute(INSERT_ORDER, order.row, prepare=True)
        await self._job.defer_async(**json.loads(order.payload))
        committing()
        await self._connection.commit()

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._connection.cursor() as cursor:
            await cursor.executemany(INSERT_ORDER, [order.row for order in orders])
        await self._job.batch_defer_async(*(json.loads(order.payload) for order in orders))
        await self._connection.commit()


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    async with (
        _app(ground.producer, 1).open_async() as app,
        AsyncConnectionPool(ground.producer, min_size=1, max_size=1, open=False) as pool,
        pool.connection() as connection,
    ):
        yield _Producer(app, connection)


async def relay(ground: Ground) -> None:
    """The worker reads the queue itself."""


async def consume(ground: Ground) -> None:
    pool = await asyncpg.create_pool(ground.consumer, min_size=CONCURRENCY, max_size=CONCURRENCY)
    app = _app(ground.producer, CONCURRENCY + 2)

    @app.task(name=TASK, queue=QUEUE)
    async def placed(order_id: int, customer_id: str, amount: int, note: str) -> None:
        await pool.execute(ADD_ONCE, order_id, customer_id, amount)

    async with app.open_async():
        await app.run_worker_async(
            queues=[QUEUE], concurrency=CONCURRENCY, delete_jobs="always", install_signal_handlers=False
        )
