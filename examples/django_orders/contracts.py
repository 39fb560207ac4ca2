"""What the two services tell each other. Both import this, and neither imports the other."""

from __future__ import annotations

from ensue import Event


class OrderPlaced(Event, topic="web.orders", key="customer_id"):
    order_id: int
    customer_id: int
    total: int


class OrderOpened(Event, topic="web.orders", key="customer_id"):
    order_id: int
    customer_id: int


class OrderRejected(Event, topic="web.orders", key="customer_id"):
    order_id: int
    customer_id: int


class CreditReserved(Event, topic="web.customers", key="customer_id"):
    order_id: int
    customer_id: int


class CreditRefused(Event, topic="web.customers", key="customer_id"):
    order_id: int
    customer_id: int
    available: int
