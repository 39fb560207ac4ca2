"""The orders service: `shop.orders:orders` runs it alone, `shop.orders.app:app` with its HTTP interface."""

from shop.orders import handlers as handlers  # declares them
from shop.orders.service import orders

__all__ = ["orders"]
