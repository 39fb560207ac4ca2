"""The service's declaration."""

from __future__ import annotations

from ensue import Lookup, Service, TableRepository
from shop.money import PENCE
from shop.order_history.model import HistoryCustomer, HistoryOrder, metadata
from shop.times import UTC_TEXT

order_history = Service(
    "order_history",
    publishes=[],
    tables=metadata,
    repositories=[
        TableRepository(
            HistoryCustomer,
            table="history_customers",
            id="customer_id",
            columns={"credit_limit": PENCE, "reserved": PENCE},
            lookups=[Lookup((), ("customer_id",))],
        ),
        TableRepository(
            HistoryOrder,
            table="history_orders",
            id="order_id",
            columns={"total": PENCE, "placed_at": UTC_TEXT},
            lookups=[
                Lookup((), ("placed_at", "order_id")),
                Lookup(("customer_id",), ("placed_at", "order_id")),
                Lookup(("status",), ("placed_at", "order_id")),
            ],
        ),
    ],
)
