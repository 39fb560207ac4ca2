"""The service's declaration."""

from __future__ import annotations

from ensue import Index, Service, TableRepository
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
            indexes=[Index((), ("customer_id",))],
        ),
        TableRepository(
            HistoryOrder,
            table="history_orders",
            id="order_id",
            columns={"total": PENCE, "placed_at": UTC_TEXT},
            indexes=[
                Index((), ("placed_at", "order_id")),
                Index(("customer_id",), ("placed_at", "order_id")),
                Index(("status",), ("placed_at", "order_id")),
            ],
        ),
    ],
)
