"""The customers service: `shop.customers:customers` runs it alone, `shop.customers.app:app` with its HTTP interface."""

from shop.customers.service import customers
from shop.settings import EVENT_SOURCED, ORCHESTRATED

if EVENT_SOURCED:
    from shop.customers import ledger_handlers as ledger_handlers  # declares them
else:
    from shop.customers import handlers as handlers
if ORCHESTRATED and EVENT_SOURCED:
    from shop.customers import ledger_commands as ledger_commands
elif ORCHESTRATED:
    from shop.customers import commands as commands

__all__ = ["customers"]
