"""The payments service: `shop.payments:payments` runs it alone, `shop.payments.app:app` with its HTTP interface.

It takes part where orders are placed by orchestration. The money itself is with a provider (`shop.provider`).
"""

from shop.payments import handlers as handlers  # declares them
from shop.payments.service import payments

__all__ = ["payments"]
