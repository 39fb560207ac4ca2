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
    """declined: there was credit, and the card was refused."""

    customer_id: UUID
    total: Decimal
    placed_at: datetime
    status: str
    declined: bool = False


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
        released = cancelled + sum(order.declined for order in self.orders.values())
        return {"orders": 2 * placed + cancelled, "customers": len(self.customers) + placed + released}


def run_model(plan: Plan, card_max: Decimal | None = None) -> Model:
    """Do the plan's operations one after the other, as if there were one process and one database.

    card_max: what a card is good for at once; None: nothing is paid by card.
    """
    model = Model()
    for planned in plan.by_customer.values():
        for each in planned:
            match each.operation:
                case CreateCustomer(customer_id, name, limit):
                    model.customers[customer_id] = ModelCustomer(name, limit)
                case PlaceOrder(customer_id, order_id, total, placed_at):
                    customer = model.customers[customer_id]
                    fits = customer.reserved + total <= customer.credit_limit
                    declined = fits and card_max is not None and total > card_max
                    status = OPEN if fits and not declined else REJECTED
                    model.orders[order_id] = ModelOrder(customer_id, total, placed_at, status, declined)
                    if status == OPEN:
                        customer.reservations[order_id] = total
                case CancelOrder(customer_id, order_id, _):
                    order = model.orders[order_id]
                    if order.status == OPEN:
                        order.status = CANCELLED
                        del model.customers[customer_id].reservations[order_id]
                    else:
                        model.refused += 1
    return model
