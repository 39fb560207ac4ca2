"""Ensue with event-sourced orders: what a stream is appended to is published with it; the consumer is `ensue_steps`'s.

Three processes, as there. Everything is at its defaults: a snapshot rides with each event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from benchmarks.peers.ensue_steps import CUSTOMERS, Customer
from benchmarks.peers.ground import Ground, Order
from ensue import Aggregate, Event, Service, Step, evolves

title = "Ensue, aggregates"
packages = ("ensue", "asyncpg")
guarantee = "once and in order of the key, by checkpoints; the stream and what is published in one commit"
backlog = 40_000


class StreamPlaced(Event, topic="orders", key="customer_id"):
    order_id: int
    customer_id: str
    amount: int
    note: str


class StreamedOrder(Aggregate, stream="order"):
    id: int
    customer_id: str = ""
    amount: int = 0
    note: str = ""

    @evolves
    def _(self, event: StreamPlaced) -> None:
        self.customer_id, self.amount, self.note = event.customer_id, event.amount, event.note


def orders_service(ground: Ground) -> Service:
    return Service(
        "orders", publishes=[StreamPlaced], aggregates=[StreamedOrder], database=ground.producer, broker=ground.nats
    )


def customers_service(ground: Ground) -> Service:
    customers = Service("customers", repositories=[CUSTOMERS], database=ground.consumer, broker=ground.nats)

    @customers.on
    def placed(customer: Customer, event: StreamPlaced, step: Step) -> None:
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
            step.record(StreamedOrder(order.id), _event(order))
            committing()  # all statements and the commit are still to come

    async def fill(self, orders: Sequence[Order]) -> None:
        async with self._service.step() as step:
            for order in orders:
                step.record(StreamedOrder(order.id), _event(order))


def _event(order: Order) -> StreamPlaced:
    return StreamPlaced(order_id=order.id, customer_id=order.customer_id, amount=order.amount, note=order.note)


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
