"""The orders service: `shop.orders:orders` runs it alone, `shop.orders.app:app` with its HTTP interface."""

from shop.orders import handlers as handlers  # declares them
from shop.orders.service import orders
from shop.settings import ORCHESTRATED

if ORCHESTRATED:
    from shop.orders import place_order as place_order

__all__ = ["orders"]
