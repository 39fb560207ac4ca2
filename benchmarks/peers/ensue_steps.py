"""Ensue on PostgreSQL and NATS JetStream: an entity step on a plain dataclass, a row of the user's own table.

Three processes, as FastStream with its outbox has: one that only takes orders, one that relays them (as `ensue run`
does for the service `orders`, which has no handlers), and the service `customers`. Everything is at its defaults, 8
partitions too.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import BigInteger, Column, MetaData, Table, Text

import ensue.brokers.nats
import ensue.stores.postgres.alchemy
import ensue.stores.postgres.asyncpg_link
import ensue.stores.postgres.polled  # noqa: F401  # a URL would import them all when the clock runs already
from benchmarks.peers.ground import Ground, Order
from ensue import Event, Service, Step, TableRepository

title = "Ensue"
packages = ("ensue", "asyncpg")
guarantee = "once and in order of the key, by checkpoints"
backlog = 100_000


class OrderPlaced(Event, topic="orders", key="customer_id"):
    order_id: int
    customer_id: str
    amount: int
    note: str


@dataclasses.dataclass(slots=True)
class PlacedOrder:
    id: int
    customer_id: str
    amount: int
    payload: str


@dataclasses.dataclass(slots=True)
class Customer:
    id: str
    total: int
    changes: int

    def add(self, amount: int) -> None:
        self.total += amount
        self.changes += 1


_tables = MetaData()
ORDERS = TableRepository(
    PlacedOrder,
    Table("orders", _tables, Column("id", BigInteger, primary_key=True), Column("customer_id", Text),
          Column("amount", BigInteger), Column("payload", Text)),
)  # fmt: skip
CUSTOMERS = TableRepository(
    Customer,
    Table("customers", _tables, Column("id", Text, primary_key=True), Column("total", BigInteger),
          Column("changes", BigInteger)),
)  # fmt: skip


def orders_service(ground: Ground) -> Service:
    return Service(
        "orders", publishes=[OrderPlaced], repositories=[ORDERS], database=ground.producer, broker=ground.nats
    )


def customers_service(ground: Ground) -> Service:
    customers = Service(
        "customers",
        repositories=[CUSTOMERS],
        database=ground.consumer,
        broker=ground.nats,
    )

    @customers.on
    def placed(customer: Customer, event: OrderPlaced, step: Step) -> None:
        customer.add(event.amount)

    return customers


async def prepare(ground: Ground) -> None:
    for service in (orders_service(ground), customers_service(ground)):
        async with service.running(work=False):
            pass  # it makes its tables and topics


class _Producer:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        async with self._service.step() as step:
            await ORDERS.save(step.transaction, {}, {order.id: PlacedOrder(*order.row)})
            step.publish(_event(order))
            committing()  # the outbox row and the commit are still to come

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._service.step() as step:
            await ORDERS.save(step.transaction, {}, {order.id: PlacedOrder(*order.row) for order in orders})
            for order in orders:
                step.publish(_event(order))


def _event(order: Order) -> OrderPlaced:
    return OrderPlaced(order_id=order.id, customer_id=order.customer_id, amount=order.amount, note=order.note)


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    service = orders_service(ground)
    async with service.running(work=False):
        yield _Producer(service)


async def relay(ground: Ground) -> None:
    async with orders_service(ground).running():
        await asyncio.Event().wait()


async def consume(ground: Ground) -> None:
    async with customers_service(ground).running():
        await asyncio.Event().wait()
