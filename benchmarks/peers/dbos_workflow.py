"""DBOS: a workflow of two steps, each a transaction of a datasource; begun and worked on by one process.

Its own tables and the datasource's stand in the one database that the steps write to. Workflows are begun where they
run, without a queue, so nothing is polled. Pools and threads are above their defaults, logging and tracing are off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SQLAlchemyDatasource

from benchmarks.peers.ground import Ground, Order, connected

title = "DBOS, a workflow"
packages = ("dbos", "sqlalchemy", "psycopg")
guarantee = "each step once, by its datasource's records; undoing is written by hand"
backlog = 500

THREADS = 32
MAKE_ORDERS = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, customer_id text NOT NULL, amount bigint NOT NULL, "
    "payload text NOT NULL)"
)
INSERT_ORDER = sa.text(
    "INSERT INTO orders (id, customer_id, amount, payload) VALUES (:id, :customer, :amount, :payload)"
)
ADD_TO_CUSTOMER = sa.text("UPDATE customers SET total = total + :amount, changes = changes + 1 WHERE id = :customer")


def _config(ground: Ground) -> DBOSConfig:
    return {
        "name": "peers",
        "system_database_url": ground.consumer,
        "application_version": "1",
        "log_level": "ERROR",
        "enable_otlp": False,
        "max_executor_threads": THREADS,
        "sys_db_pool_size": THREADS,
    }


async def prepare(ground: Ground) -> None:
    async with connected(ground.consumer) as connection:
        await connection.execute(MAKE_ORDERS)


class _Starter:
    def __init__(self, start: Callable[[Order], None]) -> None:
        self._start = start

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        committing()
        await asyncio.to_thread(self._start, order)

    async def fill(self, orders: Sequence[Order]) -> None:
        await asyncio.gather(*(asyncio.to_thread(self._start, order) for order in orders))


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Starter]:
    def launch() -> Callable[[Order], None]:
        DBOS(config=_config(ground))
        source = SQLAlchemyDatasource.create(ground.consumer, engine_kwargs={"pool_size": THREADS})

        @source.transaction(isolation_level="READ COMMITTED")
        def write_down(order_id: int, customer_id: str, amount: int, payload: str) -> None:
            row = {"id": order_id, "customer": customer_id, "amount": amount, "payload": payload}
            source.sql_session().execute(INSERT_ORDER, row)

        @source.transaction(isolation_level="READ COMMITTED")
        def add(customer_id: str, amount: int) -> None:
            source.sql_session().execute(ADD_TO_CUSTOMER, {"amount": amount, "customer": customer_id})

        @DBOS.workflow(name="place")
        def place(order_id: int, customer_id: str, amount: int, payload: str) -> None:
            write_down(order_id, customer_id, amount, payload)
            add(customer_id, amount)

        def start(order: Order) -> None:
            DBOS.start_workflow(place, order.id, order.customer_id, order.amount, order.payload)

        DBOS.launch()
        return start

    yield _Starter(await asyncio.to_thread(launch))
    await asyncio.to_thread(DBOS.destroy)


async def relay(ground: Ground) -> None:
    """One process does it all."""


async def consume(ground: Ground) -> None:
    """One process does it all."""
