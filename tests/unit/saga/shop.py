"""A service with a saga that has all there is, for the tests of the pure core."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Command, Event, Failure, Service
from ensue.saga.saga import Saga


class CreditReserved(Event, topic="sagas.credit", key="customer"):
    customer: str
    left: int


class ReserveCredit(Command[CreditReserved], service="sagacustomers", key="customer"):
    customer: str
    total: int


class ReleaseCredit(Command[None], service="sagacustomers", key="customer"):
    customer: str
    total: int


class BookSlot(Command[None], service="kitchen", key="order"):
    order: str


class FreeSlot(Command[None], service="kitchen", key="order"):
    order: str


class Unlisted(Command[None], service="kitchen", key="order"):
    order: str


class CreditShort(Failure):
    available: int


class Paid(Event, topic="sagas.paid", key="order"):
    order: str
    amount: int


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "saga_orders"

    order: Mapped[str] = mapped_column(String(50), primary_key=True)
    status: Mapped[str] = mapped_column(String(20), default="NEW")


@dataclass(frozen=True)
class PlaceOrder:
    order: str
    customer: str
    total: int


orders = Service("orders", tables=Base.metadata, calls=[ReserveCredit, ReleaseCredit, BookSlot, FreeSlot])


@orders.local
def create_order(order: Order | None, new: PlaceOrder) -> Order:
    return order or Order(order=new.order, status="NEW")


@orders.local(id="order_id")
def reject_order(order: Order, order_id: str) -> None:
    order.status = "REJECTED"


@orders.local(id="order_id")
def open_order(order: Order, order_id: str) -> int:
    order.status = "OPEN"
    return 7


@orders.saga(deadline=timedelta(hours=1))
async def place_order(saga: Saga, new: PlaceOrder) -> int:
    await saga.local(create_order, new, undo=saga.local(reject_order, new.order))
    reserved, _ = await saga.gather(
        saga.call(
            ReserveCredit(customer=new.customer, total=new.total),
            undo=ReleaseCredit(customer=new.customer, total=new.total),
            limit=timedelta(minutes=5),
        ),
        saga.call(BookSlot(order=new.order), undo=FreeSlot(order=new.order)),
    )
    await saga.receive(Paid, limit=timedelta(minutes=30))
    saga.pivot()
    await saga.sleep(timedelta(days=1))
    opened: int = await saga.local(open_order, new.order)
    return opened + reserved.left
