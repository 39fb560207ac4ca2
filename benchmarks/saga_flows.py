"""One transaction over two services, written twice: as handlers of each other's events, and as a saga.

An order is written down, credit is reserved in the database of another service, and the order is OPEN. Entities, rows
and rules are the same, plain dataclasses in both. What differs is who knows what comes next.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import Column, Integer, MetaData, String, Table

from benchmarks.rounds import Sample, Stopwatch
from ensue import Command, Event, Failure, Saga, Service, Step, TableRepository
from ensue.ports import Lookup, Store

CUSTOMERS = 1_000
CREDIT = 1_000_000_000
_AT_ONCE = 100
_ENOUGH_S = 300.0
_tables = MetaData()
_BY_STATUS = Lookup(("status",), ("id",))


@dataclasses.dataclass(slots=True)
class Order:
    id: str
    customer_id: str
    total: int
    status: str


@dataclasses.dataclass(slots=True)
class Customer:
    id: str
    available: int


_orders = Table(
    "orders",
    _tables,
    Column("id", String(40), primary_key=True),
    Column("customer_id", String(40), nullable=False),
    Column("total", Integer, nullable=False),
    Column("status", String(20), nullable=False),
)
_customers = Table(
    "customers",
    _tables,
    Column("id", String(40), primary_key=True),
    Column("available", Integer, nullable=False),
)
ORDERS = TableRepository(Order, _orders)
KEPT = TableRepository(Customer, _customers)


class OrderCreated(Event, topic="flow-orders", key="customer_id"):
    order_id: str
    customer_id: str
    total: int


class CreditReserved(Event, topic="flow-customers", key="customer_id"):
    order_id: str
    customer_id: str
    left: int


class CreditRefused(Event, topic="flow-customers", key="customer_id"):
    order_id: str
    customer_id: str
    available: int


class CreditKept(Event, topic="flow-replies", key="customer_id"):
    """The answer to the saga's command. As much as the event says."""

    order_id: str
    customer_id: str
    left: int


class HoldCredit(Command[CreditKept], service="customers", key="customer_id"):
    order_id: str
    customer_id: str
    total: int


class FreeCredit(Command[None], service="customers", key="customer_id"):
    order_id: str
    customer_id: str
    total: int


class BelowBalance(Failure):
    available: int


@dataclasses.dataclass(frozen=True)
class PlaceOrder:
    order_id: str
    customer_id: str
    total: int


def request(number: int) -> PlaceOrder:
    return PlaceOrder(f"order-{number:08d}", f"customer-{number % CUSTOMERS:04d}", number % 997 + 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """orders, customers: the services. place: begins transactions within a step."""

    orders: Service
    customers: Service
    place: Callable[[Step, Sequence[PlaceOrder]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Urls:
    orders: str
    customers: str
    broker: str


def choreography(urls: Urls) -> Flow:
    orders = Service(
        "orders", publishes=[OrderCreated], repositories=[ORDERS], tables=_tables, database=urls.orders,
        broker=urls.broker,
    )  # fmt: skip
    customers = Service(
        "customers", publishes=[CreditReserved, CreditRefused], repositories=[KEPT], tables=_tables,
        database=urls.customers, broker=urls.broker,
    )  # fmt: skip

    @customers.on
    def reserve(customer: Customer, event: OrderCreated, step: Step) -> None:
        if event.total > customer.available:
            step.publish(CreditRefused(order_id=event.order_id, customer_id=customer.id, available=customer.available))
            return
        customer.available -= event.total
        step.publish(CreditReserved(order_id=event.order_id, customer_id=customer.id, left=customer.available))

    @orders.on
    def open_order(order: Order, event: CreditReserved) -> None:
        order.status = "OPEN"

    @orders.on
    def reject_order(order: Order, event: CreditRefused) -> None:
        order.status = "REJECTED"

    def place(step: Step, requests: Sequence[PlaceOrder]) -> None:
        for new in requests:
            step.publish(OrderCreated(order_id=new.order_id, customer_id=new.customer_id, total=new.total))

    return Flow(orders, customers, place)


def saga(urls: Urls, limit: timedelta | None = None) -> Flow:
    """limit: of the call; a timer is set and taken back for it."""
    orders = Service(
        "orders", publishes=[], calls=[HoldCredit, FreeCredit], repositories=[ORDERS], tables=_tables,
        database=urls.orders, broker=urls.broker,
    )  # fmt: skip
    customers = Service(
        "customers", publishes=[], repositories=[KEPT], tables=_tables, database=urls.customers, broker=urls.broker
    )

    @customers.handles
    def reserve(customer: Customer, command: HoldCredit) -> CreditKept:
        if command.total > customer.available:
            raise BelowBalance(available=customer.available)
        customer.available -= command.total
        return CreditKept(order_id=command.order_id, customer_id=customer.id, left=customer.available)

    @customers.handles
    def release(customer: Customer, command: FreeCredit) -> None:
        customer.available += command.total

    @orders.local
    def create_order(order: Order | None, order_id: str, customer_id: str, total: int) -> Order:
        return order or Order(order_id, customer_id, total, "NEW")

    @orders.local
    def reject_order(order: Order, order_id: str) -> None:
        order.status = "REJECTED"

    @orders.local
    def open_order(order: Order, order_id: str) -> None:
        order.status = "OPEN"

    @orders.saga
    async def place_order(saga: Saga, new: PlaceOrder) -> None:
        await saga.local(
            create_order, new.order_id, new.customer_id, new.total, undo=saga.local(reject_order, new.order_id)
        )
        await saga.call(
            HoldCredit(order_id=new.order_id, customer_id=new.customer_id, total=new.total),
            undo=FreeCredit(order_id=new.order_id, customer_id=new.customer_id, total=new.total),
            limit=limit,
        )
        saga.pivot()
        await saga.local(open_order, new.order_id)

    def place(step: Step, requests: Sequence[PlaceOrder]) -> None:
        for new in requests:
            step.start(place_order, new, id=new.order_id)

    return Flow(orders, customers, place)


FLOWS: dict[str, Callable[[Urls], Flow]] = {
    "choreography": choreography,
    "saga": saga,
    "saga with a time limit": lambda urls: saga(urls, timedelta(minutes=5)),
}


@asynccontextmanager
async def running(flow: Flow) -> AsyncIterator[Store]:
    """Both services at work in this process, with all customers; yields the store of orders."""
    async with flow.customers.running() as customers, flow.orders.running() as orders:
        async with customers.store.transaction() as transaction:
            names = [f"customer-{number:04d}" for number in range(CUSTOMERS)]
            await transaction.insert_rows(KEPT.table, [(name, CREDIT) for name in names])
        await customers.ready()
        await orders.ready()
        yield orders.store


async def place(flow: Flow, requests: Sequence[PlaceOrder]) -> None:
    """In one step. With the choreography the order is written in it, with a saga in its first local step."""
    async with flow.orders.step() as step:
        if flow.orders.sagas == {}:
            new = {each.order_id: Order(each.order_id, each.customer_id, each.total, "NEW") for each in requests}
            await ORDERS.save(step.transaction, {}, new)
        flow.place(step, requests)


async def throughput(flow: Flow, count: int) -> Sample:
    """Begin so many transactions while both services work; the clock stops when all orders are OPEN."""
    async with running(flow) as store, asyncio.timeout(_ENOUGH_S):
        watch = Stopwatch()
        for first in range(0, count, _AT_ONCE):
            await place(flow, [request(number) for number in range(first, min(first + _AT_ONCE, count))])
        await _opened(store, count)
        return watch.stop(count)


async def _opened(store: Store, count: int) -> None:
    """Wait until so many orders are OPEN."""
    while True:
        if await store.rows().count(ORDERS.table, _BY_STATUS, ["OPEN"]) >= count:
            return
        await asyncio.sleep(0.01)


async def latencies(flow: Flow, count: int, per_s: float, warm_up: int) -> list[float]:
    """Begin transactions at an even pace; return the milliseconds of each from right before its step until its order is
    seen to be OPEN."""
    async with running(flow) as store, asyncio.timeout(_ENOUGH_S):
        for number in range(warm_up):
            await place(flow, [request(number)])
        await _opened(store, warm_up)
        began: dict[str, float] = {}
        took: list[float] = []
        finished = asyncio.Event()

        async def watch() -> None:
            while not finished.is_set() or began:
                rows = await store.rows().get(ORDERS.table, list(began))
                now = time.perf_counter()
                for key, *_, status in rows:
                    if status == "OPEN":
                        took.append((now - began.pop(key)) * 1000)
                await asyncio.sleep(0.0005 if began else 0.002)

        watching = asyncio.create_task(watch())
        first = time.perf_counter()
        for number in range(warm_up, warm_up + count):
            due = first + (number - warm_up) / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            new = request(number)
            began[new.order_id] = time.perf_counter()
            await place(flow, [new])
        finished.set()
        await watching
        return took
