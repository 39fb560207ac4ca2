"""What placing an order begins with, whichever way it goes on."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from ensue import Step
from shop.contracts import OrderCreated
from shop.orders.model import Order
from shop.settings import ORCHESTRATED


@dataclasses.dataclass(frozen=True, slots=True)
class PlaceOrder:
    order_id: UUID
    customer_id: UUID
    total: Decimal
    placed_at: datetime


def create(new: PlaceOrder, step: Step) -> Order:
    """A new order; it is still to be stored. That it was created goes with the step."""
    step.publish(
        OrderCreated(
            order_id=new.order_id,
            customer_id=new.customer_id,
            total=new.total,
            placed_at=new.placed_at,
            orchestrated=ORCHESTRATED,
        )
    )
    return Order(
        order_id=new.order_id,
        customer_id=new.customer_id,
        total=new.total,
        placed_at=new.placed_at,
        orchestrated=ORCHESTRATED,
    )
