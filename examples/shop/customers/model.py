"""Customers and their credit: what is reserved for whom, and the rule that it never exceeds the limit."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from sqlalchemy import CheckConstraint, String
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from shop.money import Pence


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class Customer(Base, kw_only=True):
    """`reserved` is kept as a sum, so that a decision takes one row however many orders a customer has."""

    __tablename__ = "customers"
    __table_args__ = (CheckConstraint("reserved BETWEEN 0 AND credit_limit", name="reserved_within_limit"),)

    customer_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    credit_limit: Mapped[Decimal] = mapped_column(Pence)
    reserved: Mapped[Decimal] = mapped_column(Pence, default=Decimal("0.00"))

    @property
    def available(self) -> Decimal:
        return self.credit_limit - self.reserved

    def reserve(self, amount: Decimal) -> bool:
        """Take `amount` of the credit, or return False when it is more than what is left."""
        if amount > self.available:
            return False
        self.reserved += amount
        return True

    def release(self, amount: Decimal) -> None:
        self.reserved -= amount


class Reservation(Base, kw_only=True):
    """What one open order holds of its customer's credit. Per customer they add up to `Customer.reserved`."""

    __tablename__ = "reservations"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    customer_id: Mapped[UUID] = mapped_column(index=True)
    amount: Mapped[Decimal] = mapped_column(Pence)
