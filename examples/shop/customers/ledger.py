"""Customers as the fold of what has happened to them. The same rule: what is reserved never exceeds the limit."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from uuid import UUID

from ensue import Aggregate, evolves
from shop.contracts import CreditReleased, CreditReservationFailed, CreditReserved, CustomerCreated

NOTHING = Decimal("0.00")


class Customer(Aggregate, stream="customer"):
    """reservations: what each open order holds; they add up to `reserved`."""

    customer_id: UUID
    name: str = ""
    credit_limit: Decimal = NOTHING
    reserved: Decimal = NOTHING
    reservations: dict[UUID, Decimal] = dataclasses.field(default_factory=dict)

    @property
    def available(self) -> Decimal:
        return self.credit_limit - self.reserved

    def create(self, name: str, credit_limit: Decimal) -> CustomerCreated:
        return CustomerCreated(customer_id=self.customer_id, name=name, credit_limit=credit_limit)

    def reserve(self, order_id: UUID, total: Decimal) -> CreditReserved | CreditReservationFailed:
        if total > self.available:
            reason = f"credit limit exceeded: {total} asked, {self.available} available"
            return CreditReservationFailed(customer_id=self.customer_id, order_id=order_id, reason=reason)
        return CreditReserved(customer_id=self.customer_id, order_id=order_id, amount=total)

    def release(self, order_id: UUID) -> CreditReleased | None:
        """None: nothing is reserved for this order."""
        amount = self.reservations.get(order_id)
        if amount is None:
            return None
        return CreditReleased(customer_id=self.customer_id, order_id=order_id, amount=amount)

    @evolves
    def _(self, event: CustomerCreated) -> None:
        self.name = event.name
        self.credit_limit = event.credit_limit

    @evolves
    def _(self, event: CreditReserved) -> None:
        self.reservations[event.order_id] = event.amount
        self.reserved += event.amount

    @evolves
    def _(self, event: CreditReleased) -> None:
        self.reserved -= self.reservations.pop(event.order_id)

    @evolves
    def _(self, event: CreditReservationFailed) -> None:
        """It is part of the customer's history, and changes nothing."""
