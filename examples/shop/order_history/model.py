"""The view: each customer with all their orders, joined from the events of both services.

Plain dataclasses in plain tables: nothing here decides anything, so nothing is gained by mapping objects, and a batch
of events costs one SELECT and one UPDATE for each table. The same tables serve the queries.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Column, MetaData, String, Table, Uuid

from shop.money import Pence
from shop.times import UtcDateTime

metadata = MetaData()

history_customers = Table(
    "history_customers",
    metadata,
    Column("customer_id", Uuid, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("credit_limit", Pence, nullable=False),
    Column("reserved", Pence, nullable=False),
)

history_orders = Table(
    "history_orders",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("customer_id", Uuid, nullable=False),
    Column("total", Pence, nullable=False),
    Column("placed_at", UtcDateTime, nullable=False),
    Column("status", String(10), nullable=False),
    Column("reason", String(200), nullable=False),
)

#: Which status may follow which: an order never goes back.
RANK = {"NEW": 0, "OPEN": 1, "REJECTED": 1, "CANCELLED": 2}


@dataclasses.dataclass(slots=True)
class HistoryCustomer:
    """reserved: the sum of what was reserved less what was released."""

    customer_id: UUID
    name: str
    credit_limit: Decimal
    reserved: Decimal = Decimal("0.00")


@dataclasses.dataclass(slots=True)
class HistoryOrder:
    order_id: UUID
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    status: str = "NEW"
    reason: str = ""

    def advance(self, status: str, reason: str = "") -> None:
        """Go on to `status`, never back."""
        if RANK[status] > RANK[self.status]:
            self.status = status
            self.reason = reason
