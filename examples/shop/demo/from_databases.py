"""A snapshot read straight from the services' SQLite files, past all code of the services and of Ensue."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from shop.demo.snapshot import CustomerState, OrderState, Snapshot

ORDERS = "SELECT order_id, customer_id, total, placed_at, status, reason FROM orders"
CUSTOMERS = "SELECT customer_id, name, credit_limit, reserved FROM customers"
RESERVATIONS = "SELECT customer_id, order_id, amount FROM reservations"
VIEW_ORDERS = "SELECT order_id, customer_id, total, placed_at, status, reason FROM history_orders"
VIEW_CUSTOMERS = "SELECT customer_id, name, credit_limit, reserved FROM history_customers"

#: Customers who have more reserved than they may, by the sum and by the rows.
OVER_LIMIT = """
    SELECT customers.customer_id, max(reserved, coalesce(held, 0)), credit_limit FROM customers
    LEFT JOIN (SELECT customer_id, sum(amount) AS held FROM reservations GROUP BY customer_id) USING (customer_id)
    WHERE reserved > credit_limit OR held > credit_limit
"""


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can only read, with everything in it as of one moment."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        connection.execute("BEGIN")
        yield connection


def snapshot_from_databases(directory: Path) -> Snapshot:
    """Read the three services' tables. Amounts are whole pence there, ids 32 hexadecimal digits, moments text."""
    with reading(directory / "orders.db") as database:
        orders = _orders(database, ORDERS)
    with reading(directory / "customers.db") as database:
        reservations: dict[UUID, dict[UUID, Decimal]] = defaultdict(dict)
        for customer_id, order_id, amount in database.execute(RESERVATIONS):
            reservations[UUID(customer_id)][UUID(order_id)] = _pounds(amount)
        customers = {
            key: CustomerState(each.name, each.credit_limit, each.reserved, reservations.pop(key, {}))
            for key, each in _customers(database, CUSTOMERS).items()
        }
        for key, held in reservations.items():  # of nobody: no check may overlook it
            customers[key] = CustomerState("(no such customer)", Decimal(0), Decimal(0), held)
    with reading(directory / "order_history.db") as database:
        view_orders = _orders(database, VIEW_ORDERS)
        view_customers = _customers(database, VIEW_CUSTOMERS)
    return Snapshot("databases", orders, customers, view_orders, view_customers)


def over_limit(customers_database: Path) -> list[str]:
    """Return the customers who have more reserved than their limit at this moment, in words; there must be none."""
    with reading(customers_database) as database:
        return [
            f"customer {UUID(key)}: reserved {_pounds(reserved)}, limit {_pounds(limit)}"
            for key, reserved, limit in database.execute(OVER_LIMIT)
        ]


def _orders(database: sqlite3.Connection, query: str) -> dict[UUID, OrderState]:
    return {
        UUID(key): OrderState(UUID(customer), _pounds(total), datetime.fromisoformat(placed_at), status, reason)
        for key, customer, total, placed_at, status, reason in database.execute(query)
    }


def _customers(database: sqlite3.Connection, query: str) -> dict[UUID, CustomerState]:
    return {
        UUID(key): CustomerState(name, _pounds(limit), _pounds(reserved))
        for key, name, limit, reserved in database.execute(query)
    }


def _pounds(pence: int) -> Decimal:
    return Decimal(pence).scaleb(-2)
