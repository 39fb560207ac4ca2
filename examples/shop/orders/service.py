"""The service's declaration."""

from __future__ import annotations

from ensue import Retry, Service
from shop.contracts import OrderCancelled, OrderCreated, OrderOpened, OrderRejected
from shop.orders.model import Base, CannotHappen

orders = Service(
    "orders",
    publishes=[OrderCreated, OrderOpened, OrderRejected, OrderCancelled],
    tables=Base.metadata,
    retry=Retry(never=(CannotHappen,)),
)
