"""From the order to the cash: three services, a saga of five steps, and a participant that is a saga itself.

create the order · reserve credit · have the payment authorised · (pivot) capture it · open the order
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.sagas.book import Provider

from ensue import Command, EffectKey, Event, Failure, Saga, Service, Step

LIMIT = timedelta(minutes=5)
CREDIT = 1_000


class Reserved(Event, topic="cash.credit", key="customer"):
    customer: str


class Reserve(Command[Reserved], service="credit", key="customer"):
    customer: str
    order: str
    total: int


class Release(Command[None], service="credit", key="customer"):
    customer: str
    order: str
    total: int


class Authorised(Event, topic="cash.payments", key="order"):
    order: str


class Authorise(Command[Authorised], service="till", key="order"):
    order: str


class Void(Command[None], service="till", key="order"):
    order: str


class Refused(Failure, type_name="cash.Refused"):
    """A business failure, wherever it is raised."""

    by: str


class NotYet(Failure, type_name="cash.NotYet"):
    """It cannot be undone while it is at work."""


class Sales(DeclarativeBase):
    pass


class Order(Sales):
    __tablename__ = "cash_orders"

    order: Mapped[str] = mapped_column(String(50), primary_key=True)
    status: Mapped[str] = mapped_column(String(20))


class Credits(DeclarativeBase):
    pass


class Customer(Credits):
    """reserved: the orders that it was reserved for, between spaces."""

    __tablename__ = "cash_customers"

    customer: Mapped[str] = mapped_column(String(50), primary_key=True)
    left: Mapped[int]
    reserved: Mapped[str] = mapped_column(String(2000), default=" ")


class Tills(DeclarativeBase):
    pass


class Payment(Tills):
    __tablename__ = "cash_payments"

    order: Mapped[str] = mapped_column(String(50), primary_key=True)
    status: Mapped[str] = mapped_column(String(20))


@dataclass(frozen=True)
class Place:
    order: str
    total: int = 30
    customer: str = "ann"
    changes_mind: bool = False
    """It is undone when all before its pivot is done."""
    rests: bool = False
    """It sleeps for a day before that."""


Meets = Callable[[str, str], None]


def never(what: str, attempt: str) -> None:
    """Nothing goes wrong anywhere."""


class Shop:
    """meets: is told what a function has come to, and at which attempt, and may raise what goes wrong there.
    limit_s: of an attempt at the provider."""

    def __init__(self, provider: Provider, meets: Meets = never, limit_s: float = 20.0) -> None:
        limit = timedelta(seconds=limit_s)
        self.credit = _credit(meets)
        self.till, self.authorise = _till(provider, meets, limit)
        self.sales, self.place = _sales(provider, meets, limit)
        self.services = {each.name: each for each in (self.sales, self.credit, self.till)}


def _credit(meets: Meets) -> Service:
    credit = Service("credit", tables=Credits.metadata)

    @credit.handles
    def reserve(customer: Customer | None, command: Reserve, step: Step) -> tuple[Customer, Reserved]:
        meets("reserve", _attempt(step))
        customer = customer or Customer(customer=command.customer, left=CREDIT, reserved=" ")
        if f" {command.order} " in customer.reserved:  # asked again by a service whose database went back
            return customer, Reserved(customer=command.customer)
        if command.total > customer.left:
            raise Refused(by="credit")
        customer.left -= command.total
        customer.reserved += f"{command.order} "
        return customer, Reserved(customer=command.customer)

    @credit.handles
    def release(customer: Customer | None, command: Release, step: Step) -> None:
        meets("release", _attempt(step))
        if customer is not None and f" {command.order} " in customer.reserved:  # else it never happened
            customer.left += command.total
            customer.reserved = customer.reserved.replace(f" {command.order} ", " ")

    return credit


def _till(provider: Provider, meets: Meets, limit: timedelta) -> tuple[Service, Any]:
    till = Service("till", tables=Tills.metadata)

    @till.local
    def note(payment: Payment | None, order: str) -> tuple[Payment, bool]:
        meets("note", "")
        if payment is not None and payment.status != "HELD":
            raise Refused(by="till, where it was undone before it began")
        return payment or Payment(order=order, status="ASKED"), payment is not None

    @till.local
    def mark(payment: Payment, order: str, status: str) -> None:
        meets(f"mark {status}", "")
        payment.status = status

    @till.local
    def undoes(payment: Payment | None, order: str, step: Step) -> tuple[Payment, bool]:
        meets("void", _attempt(step))
        if payment is not None and payment.status == "ASKED":
            raise NotYet
        held = payment is not None and payment.status == "HELD"
        payment = payment or Payment(order=order, status="VOID")
        return payment, held

    @till.outside
    async def hold(order: str, key: EffectKey) -> None:
        meets("hold", "")
        await asyncio.to_thread(provider.ask, "hold", order, key)

    @till.outside
    async def let_go(order: str, key: EffectKey) -> None:
        await asyncio.to_thread(provider.ask, "void", order, key)

    @till.saga(handles=Authorise)
    async def authorise(saga: Saga, command: Authorise) -> Authorised:
        order = command.order
        held = await saga.local(note, order, undo=saga.local(mark, order, "REFUSED"))
        if held:  # asked again by a service whose database went back
            return Authorised(order=order)
        await saga.outside(hold, order, undo=let_go, attempts=3, limit=limit)
        saga.pivot()
        await saga.local(mark, order, "HELD")
        return Authorised(order=order)

    @till.saga(handles=Void)
    async def void(saga: Saga, command: Void) -> None:
        held = await saga.local(undoes, command.order, undo=None)
        saga.pivot()
        if held:
            await saga.outside(let_go, command.order, limit=limit)
            await saga.local(mark, command.order, "VOID")

    return till, authorise


def _sales(provider: Provider, meets: Meets, limit: timedelta) -> tuple[Service, Any]:
    sales = Service("sales", tables=Sales.metadata, calls=[Reserve, Release, Authorise, Void])

    @sales.local
    def create(order_row: Order | None, new: Place) -> Order:
        meets("create", "")
        return order_row or Order(order=new.order, status="NEW")

    @sales.local
    def reject(row: Order, order: str, step: Step) -> None:
        meets("reject", _attempt(step))
        row.status = "REJECTED"

    @sales.local
    def open_order(row: Order, order: str) -> None:
        meets("open", "")
        row.status = "OPEN"

    @sales.outside
    async def capture(order: str, key: EffectKey) -> None:
        meets("capture", "")
        await asyncio.to_thread(provider.ask, "capture", order, key)
        meets("captured", "")

    @sales.saga
    async def place(saga: Saga, new: Place) -> str:
        reserve = Reserve(customer=new.customer, order=new.order, total=new.total)
        release = Release(customer=new.customer, order=new.order, total=new.total)
        await saga.local(create, new, undo=saga.local(reject, new.order))
        await saga.call(reserve, undo=release, limit=LIMIT)
        meets("knows of reserve", "")
        await saga.call(Authorise(order=new.order), undo=Void(order=new.order), limit=LIMIT)
        meets("knows of authorise", "")
        if new.rests:
            await saga.sleep(timedelta(days=1))
            meets("woke", "")
        if new.changes_mind:
            raise Refused(by="the customer")
        saga.pivot()
        await saga.outside(capture, new.order, attempts=3, limit=limit)
        await saga.local(open_order, new.order)
        return new.order

    return sales, place


def _attempt(step: Step) -> str:
    assert step.message is not None
    return step.message.id
