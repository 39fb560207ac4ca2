"""The events of the shop: all that the services know of each other.

Both topics are keyed by customer, so that one customer's orders are decided in the order in which they were placed.
Events of different topics have no order between them.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from ensue import Event


class OrderCreated(Event, topic="orders", key="customer_id", omit_defaults=True):
    """An order was placed and waits for the customer's credit.

    orchestrated: a saga of `orders` asks for the credit, so nobody is to reserve it because of this event.
    """

    order_id: UUID
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    orchestrated: bool = False


class OrderOpened(Event, topic="orders", key="customer_id"):
    """The credit is reserved: the order will be delivered."""

    order_id: UUID
    customer_id: UUID


class OrderRejected(Event, topic="orders", key="customer_id"):
    order_id: UUID
    customer_id: UUID
    reason: str


class OrderCancelled(Event, topic="orders", key="customer_id"):
    """An open order was given up: its credit is free again."""

    order_id: UUID
    customer_id: UUID


class CustomerCreated(Event, topic="customers", key="customer_id"):
    customer_id: UUID
    name: str
    credit_limit: Decimal


class CreditReserved(Event, topic="customers", key="customer_id"):
    customer_id: UUID
    order_id: UUID
    amount: Decimal


class CreditReservationFailed(Event, topic="customers", key="customer_id"):
    customer_id: UUID
    order_id: UUID
    reason: str


class CreditReleased(Event, topic="customers", key="customer_id"):
    customer_id: UUID
    order_id: UUID
    amount: Decimal
