"""The service's declaration."""

from __future__ import annotations

from ensue import Lookup, TableRepository, View
from shop.order_history.model import HistoryCustomer, HistoryOrder, history_customers, history_orders, metadata
from shop.settings import history_version

BY_TIME = ("placed_at", "order_id")

order_history = View(
    "order_history",
    version=history_version(),
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
