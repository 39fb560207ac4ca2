"""The service's declaration."""

from __future__ import annotations

from ensue import Lookup, TableRepository, View
from shop.order_history.model import HistoryCustomer, HistoryOrder, history_customers, history_orders, metadata

BY_TIME = ("placed_at", "order_id")

order_history = View(
    "order_history",
    version=1,
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
