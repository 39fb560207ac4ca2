"""The order_history service: `shop.order_history:order_history` alone, `shop.order_history.app:app` over HTTP."""

from shop.order_history import handlers as handlers  # declares them
from shop.order_history.service import order_history

__all__ = ["order_history"]
