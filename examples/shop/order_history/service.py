"""The service's declaration."""

from __future__ import annotations

from ensue import Lookup, Service, TableRepository
from shop.order_history.model import HistoryCustomer, HistoryOrder, history_customers, history_orders, metadata

BY_TIME = ("placed_at", "order_id")

order_history = Service(
    "order_history",
    publishes=[],
    tables=metadata,
    repositories=[
        TableRepository(HistoryCustomer, history_customers),
        TableRepository(
            HistoryOrder,
            history_orders,
            lookups=[Lookup((), BY_TIME), Lookup(("customer_id",), BY_TIME), Lookup(("status",), BY_TIME)],
        ),
    ],
)
