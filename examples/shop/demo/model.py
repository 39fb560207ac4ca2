"""The sequential model: what must be the end of every order and every customer's reservations. Pure.

One customer's orders and cancellations are decided in the order in which they were made (their events share a key),
and customers do not touch each other. So, however the services raced, crashed and retried, the end is exactly this.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from shop.demo.plan import CancelOrder, CreateCustomer, PlaceOrder, Plan

OPEN, REJECTED, CANCELLED = "OPEN", "REJECTED", "CANCELLED"


@dataclasses.dataclass(slots=True)
class ModelOrder:
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    status: str


@dataclasses.dataclass(slots=True)
class ModelCustomer:
    """reservations: amount by order. Their sum is what the customer has reserved."""

    name: str
    credit_limit: Decimal
    reservations: dict[UUID, Decimal] = dataclasses.field(default_factory=dict)

    @property
    def reserved(self) -> Decimal:
        return sum(self.reservations.values(), Decimal(0))


@dataclasses.dataclass(slots=True)
class Model:
    """refused: cancellations that find their order REJECTED and are answered with 409."""

    customers: dict[UUID, ModelCustomer] = dataclasses.field(default_factory=dict)
    orders: dict[UUID, ModelOrder] = dataclasses.field(default_factory=dict)
    refused: int = 0

    def by_status(self) -> Counter[str]:
        return Counter(order.status for order in self.orders.values())

    def events(self) -> dict[str, int]:
        """How many events each service has published at the end: what is asked for, each decision, each release."""
        placed, cancelled = len(self.orders), self.by_status()[CANCELLED]
        return {"orders": 2 * placed + cancelled, "customers": len(self.customers) + placed + cancelled}


def run_model(plan: Plan) -> Model:
    """Do the plan's operations one after the other, as if there were one process and one database."""
    model = Model()
    for planned in plan.by_customer.values():
        for each in planned:
            match each.operation:
                case CreateCustomer(customer_id, name, limit):
                    model.customers[customer_id] = ModelCustomer(name, limit)
                case PlaceOrder(customer_id, order_id, total, placed_at):
                    customer = model.customers[customer_id]
                    fits = customer.reserved + total <= customer.credit_limit
                    model.orders[order_id] = ModelOrder(customer_id, total, placed_at, OPEN if fits else REJECTED)
                    if fits:
                        customer.reservations[order_id] = total
                case CancelOrder(customer_id, order_id, _):
                    order = model.orders[order_id]
                    if order.status == OPEN:
                        order.status = CANCELLED
                        del model.customers[customer_id].reservations[order_id]
                    else:
                        model.refused += 1
    return model
