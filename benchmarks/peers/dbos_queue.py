"""DBOS: the event is a workflow, enqueued in the order's transaction; it runs one step, a transaction of a datasource.

DBOS's system tables stand in the producer's database, since `enqueue_in_transaction` wants them there; the datasource
writes to the consumer's. The queue is polled (there is no wake-up): every 10 ms here, where the default is a second.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, SQLAlchemyDatasource

from benchmarks.peers.ground import Ground, Order

title = "DBOS"
packages = ("dbos", "sqlalchemy", "psycopg")
guarantee = "once, by its datasource's records; no order within a key"
backlog = 1_000

QUEUE, WORKFLOW = "orders", "order_placed"
INSERT_ORDER = sa.text(
    "INSERT INTO orders (id, customer_id, amount, payload) VALUES (:id, :customer, :amount, :payload)"
)
ADD_TO_CUSTOMER = sa.text("UPDATE customers SET total = total + :amount, changes = changes + 1 WHERE id = :customer")


def _config(ground: Ground) -> DBOSConfig:
    return {
        "name": "peers",
        "system_database_url": ground.producer,
        "application_version": "1",
        "log_level": "ERROR",
        "max_executor_threads": 32,
        "sys_db_pool_size": 20,
    }


def _psycopg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


async def prepare(ground: Ground) -> None:
    def make() -> None:
        DBOS(config=_config(ground))
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=32, polling_interval_sec=0.01)
        DBOS.destroy()

    await asyncio.to_thread(make)


class _Producer:
    def __init__(self, client: DBOSClient, connection: sa.Connection) -> None:
        self._client = client
        self._connection = connection

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        self._add(order)
        committing()
        self._connection.commit()

    async def fill(self, orders: Sequence[Order]) -> None:
        for order in orders:  # it has no call for several
            self._add(order)
        self._connection.commit()

    def _add(self, order: Order) -> None:
        row = {"id": order.id, "customer": order.customer_id, "amount": order.amount, "payload": order.payload}
        self._connection.execute(INSERT_ORDER, row)
        self._client.enqueue_in_transaction(
            self._connection,
            {"queue_name": QUEUE, "workflow_name": WORKFLOW, "app_version": "1"},
            json.loads(order.payload),
        )


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    client = DBOSClient(system_database_url=ground.producer)
    engine = sa.create_engine(_psycopg(ground.producer), pool_size=1)
    with engine.connect() as connection:
        yield _Producer(client, connection)
    client.destroy()


async def relay(ground: Ground) -> None:
    """DBOS reads the queue itself."""


async def consume(ground: Ground) -> None:
    def start() -> None:
        DBOS(config=_config(ground))
        source = SQLAlchemyDatasource.create(ground.consumer, engine_kwargs={"pool_size": 20})

        @source.transaction(isolation_level="READ COMMITTED")
        def add(event: dict[str, Any]) -> None:
            source.sql_session().execute(ADD_TO_CUSTOMER, {"amount": event["amount"], "customer": event["customer_id"]})

        @DBOS.workflow(name=WORKFLOW)
        def placed(event: dict[str, Any]) -> None:
            add(event)

        DBOS.launch()

    await asyncio.to_thread(start)
    await asyncio.Event().wait()
