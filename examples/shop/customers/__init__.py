"""The customers service: `shop.customers:customers` runs it alone, `shop.customers.app:app` with its HTTP interface."""

from shop.customers import handlers as handlers  # declares them
from shop.customers.service import customers

__all__ = ["customers"]
