"""The customers service: `shop.customers:customers` runs it alone, `shop.customers.app:app` with its HTTP interface."""

from shop.customers import handlers as handlers  # declares them
from shop.customers.service import customers
from shop.settings import ORCHESTRATED

if ORCHESTRATED:
    from shop.customers import commands as commands

__all__ = ["customers"]
