"""A snapshot read straight from the services' databases, past all code of the services and of Ensue."""

from __future__ import annotations

from decimal import Decimal

from shop.demo.databases import Database, Databases
from shop.demo.snapshot import CustomerState, Snapshot


def snapshot_from_databases(databases: Databases) -> Snapshot:
    """Read the three services' tables, each database as of one moment of its own."""
    with databases["orders"].reading() as reader:
        orders = reader.orders()
    with databases["customers"].reading() as reader:
        reservations = reader.reservations()
        customers = {
            key: CustomerState(each.name, each.credit_limit, each.reserved, reservations.pop(key, {}))
            for key, each in reader.customers().items()
        }
        for key, held in reservations.items():  # of nobody: no check may overlook it
            customers[key] = CustomerState("(no such customer)", Decimal(0), Decimal(0), held)
    with databases["order_history"].reading() as reader:
        view_orders = reader.orders()
        view_customers = reader.customers()
    return Snapshot("databases", orders, customers, view_orders, view_customers)


def over_limit(customers: Database) -> list[str]:
    """Return the customers who have more reserved than their limit at this moment, in words; there must be none."""
    with customers.reading() as reader:
        return reader.over_limit()
