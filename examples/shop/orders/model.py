"""Orders: what one is, and which states follow which."""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Enum, String
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from shop.money import Pence
from shop.times import UtcDateTime


class Status(enum.StrEnum):
    NEW = "NEW"
    OPEN = "OPEN"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


#: (state, what happens) -> the next state. What is not here cannot happen.
NEXT = {
    (Status.NEW, "open"): Status.OPEN,
    (Status.NEW, "reject"): Status.REJECTED,
    (Status.OPEN, "cancel"): Status.CANCELLED,
}


class CannotHappen(Exception):
    """This cannot happen to an order in this state."""


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class Order(Base, kw_only=True):
    """orchestrated: a saga brings it to its end; else the customers' events do."""

    __tablename__ = "orders"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    customer_id: Mapped[UUID]
    total: Mapped[Decimal] = mapped_column(Pence)
    placed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[Status] = mapped_column(Enum(Status, native_enum=False, length=10), default=Status.NEW)
    reason: Mapped[str] = mapped_column(String(200), default="")
    orchestrated: Mapped[bool] = mapped_column(default=False)

    def open(self) -> None:
        self._move("open")

    def reject(self, reason: str) -> None:
        self._move("reject")
        self.reason = reason

    def cancel(self) -> None:
        self._move("cancel")

    def _move(self, what: str) -> None:
        following = NEXT.get((self.status, what))
        if following is None:
            possible = ", ".join(state for state, name in NEXT if name == what)
            raise CannotHappen(f"order {self.order_id} is {self.status}; only {possible} orders can {what}")
        self.status = following
