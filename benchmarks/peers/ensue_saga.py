"""Ensue: a saga of two local steps, in one service and one database; begun and worked on by one process.

At its defaults. Both local steps of a saga are in the transaction in which it goes on, with those of all other sagas of
the batch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.ensue_steps import CUSTOMERS, ORDERS, Customer, PlacedOrder
from benchmarks.peers.ground import Ground, Order, connected
from ensue import Event, Saga, Service

title = "Ensue, a saga"
packages = ("ensue", "asyncpg")
guarantee = "each step once; undone in reverse when it fails"
backlog = 20_000

MAKE_ORDERS = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, customer_id text NOT NULL, amount bigint NOT NULL, "
    "payload text NOT NULL)"
)


class Placed(Event, topic="saga-placed", key="customer_id"):
    """The request."""

    order_id: int
    customer_id: str
    amount: int
    payload: str


def services(ground: Ground) -> tuple[Service, Any]:
    shop = Service("shop", publishes=[], repositories=[ORDERS, CUSTOMERS], database=ground.consumer, broker=ground.nats)

    @shop.local(id="order_id")
    def write_down(
        order: PlacedOrder | None, order_id: int, customer_id: str, amount: int, payload: str
    ) -> PlacedOrder:
        return order or PlacedOrder(order_id, customer_id, amount, payload)

    @shop.local(id="order_id")
    def reject(order: PlacedOrder, order_id: int) -> None:
        order.amount = 0

    @shop.local(id="customer_id")
    def add(customer: Customer, customer_id: str, amount: int) -> None:
        customer.add(amount)

    @shop.saga
    async def place(saga: Saga, new: Placed) -> None:
        await saga.local(
            write_down, new.order_id, new.customer_id, new.amount, new.payload, undo=saga.local(reject, new.order_id)
        )
        await saga.local(add, new.customer_id, new.amount, undo=None)

    return shop, place


async def prepare(ground: Ground) -> None:
    async with connected(ground.consumer) as connection:
        await connection.execute(MAKE_ORDERS)
    shop, _ = services(ground)
    async with shop.running(work=False):
        pass  # it makes its tables and topics


class Starter:
    """Begins sagas of a service that runs in this process."""

    def __init__(self, service: Service, saga: Any) -> None:
        self._service = service
        self._saga = saga

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        async with self._service.step() as step:
            step.start(self._saga, _request(order), id=order.id)
            committing()

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._service.step() as step:
            for order in orders:
                step.start(self._saga, _request(order), id=order.id)


def _request(order: Order) -> Placed:
    return Placed(order_id=order.id, customer_id=order.customer_id, amount=order.amount, payload=order.payload)


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[Starter]:
    shop, place = services(ground)
    async with shop.running() as runtime:
        await runtime.ready()
        yield Starter(shop, place)


async def relay(ground: Ground) -> None:
    """One process does it all."""


async def consume(ground: Ground) -> None:
    """One process does it all."""
