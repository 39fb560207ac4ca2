"""Ensue: a saga of a local step and a call, over two services with a database each, both at work in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.ensue_saga import Placed, Starter
from benchmarks.peers.ensue_steps import CUSTOMERS, ORDERS, Customer, PlacedOrder
from benchmarks.peers.ground import Ground
from ensue import Command, Saga, Service

title = "Ensue, a saga over two services"
packages = ("ensue", "asyncpg")
guarantee = "each step once, in two databases; undone in reverse when it fails"
backlog = 5_000


class Add(Command[None], service="customers", key="customer_id"):
    customer_id: str
    amount: int


class TakeBack(Command[None], service="customers", key="customer_id"):
    customer_id: str
    amount: int


def services(ground: Ground) -> tuple[Service, Service, Any]:
    orders = Service(
        "orders", publishes=[], calls=[Add, TakeBack], repositories=[ORDERS], database=ground.producer,
        broker=ground.nats,
    )  # fmt: skip
    customers = Service(
        "customers", publishes=[], repositories=[CUSTOMERS], database=ground.consumer, broker=ground.nats
    )

    @customers.handles
    def add(customer: Customer, command: Add) -> None:
        customer.add(command.amount)

    @customers.handles
    def take_back(customer: Customer, command: TakeBack) -> None:
        customer.total -= command.amount

    @orders.local(id="order_id")
    def write_down(
        order: PlacedOrder | None, order_id: int, customer_id: str, amount: int, payload: str
    ) -> PlacedOrder:
        return order or PlacedOrder(order_id, customer_id, amount, payload)

    @orders.local(id="order_id")
    def reject(order: PlacedOrder, order_id: int) -> None:
        order.amount = 0

    @orders.saga
    async def place(saga: Saga, new: Placed) -> None:
        await saga.local(
            write_down, new.order_id, new.customer_id, new.amount, new.payload, undo=saga.local(reject, new.order_id)
        )
        await saga.call(
            Add(customer_id=new.customer_id, amount=new.amount),
            undo=TakeBack(customer_id=new.customer_id, amount=new.amount),
        )

    return orders, customers, place


async def prepare(ground: Ground) -> None:
    orders, customers, _ = services(ground)
    async with orders.running(work=False), customers.running(work=False):
        pass  # they make their tables and topics


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[Starter]:
    orders, customers, place = services(ground)
    async with customers.running() as one, orders.running() as other:
        await one.ready()
        await other.ready()
        yield Starter(orders, place)


async def relay(ground: Ground) -> None:
    """One process does it all."""


async def consume(ground: Ground) -> None:
    """One process does it all."""
