"""Payments: one an order, and which states follow which."""

from __future__ import annotations

import enum
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Enum, String
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from shop.money import Pence


class Status(enum.StrEnum):
    """ASKED: the provider is being asked to hold the money."""

    ASKED = "ASKED"
    REFUSED = "REFUSED"
    AUTHORISED = "AUTHORISED"
    VOIDED = "VOIDED"
    CAPTURED = "CAPTURED"
    REFUNDED = "REFUNDED"


#: (state, what happens) -> the next state. What is not here cannot happen.
NEXT = {
    (Status.ASKED, "authorise"): Status.AUTHORISED,
    (Status.ASKED, "refuse"): Status.REFUSED,
    (Status.ASKED, "void"): Status.VOIDED,
    (Status.AUTHORISED, "void"): Status.VOIDED,
    (Status.AUTHORISED, "capture"): Status.CAPTURED,
    (Status.CAPTURED, "refund"): Status.REFUNDED,
}


class CannotHappen(Exception):
    """This cannot happen to a payment in this state."""


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class Payment(Base, kw_only=True):
    """amount: 0 of one that was given up before it began. reference: the provider's. reason: of a refusal."""

    __tablename__ = "payments"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    amount: Mapped[Decimal] = mapped_column(Pence)
    status: Mapped[Status] = mapped_column(Enum(Status, native_enum=False, length=10), default=Status.ASKED)
    reference: Mapped[str] = mapped_column(String(40), default="")
    reason: Mapped[str] = mapped_column(String(200), default="")

    def move(self, what: str) -> None:
        following = NEXT.get((self.status, what))
        if following is None:
            possible = ", ".join(state for state, name in NEXT if name == what)
            raise CannotHappen(
                f"the payment of order {self.order_id} is {self.status}; to {what} it, it must be {possible}"
            )
        self.status = following
