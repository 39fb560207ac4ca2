"""The three services of the shop: their names, in the order in which they are shown, and where their code is."""

from __future__ import annotations

APPLICATIONS = {
    "orders": "shop.orders.app:app",
    "customers": "shop.customers.app:app",
    "order_history": "shop.order_history.app:app",
}
SERVICES = tuple(APPLICATIONS)
#: What each reads. Said here too, and not only taken from what is stored: a subscription that never began must show.
SUBSCRIBES = {"orders": ("customers",), "customers": ("orders",), "order_history": ("customers", "orders")}
#: How long a service may take to stop in an orderly way before it is killed, in seconds.
STOP_S = 3.0
#: How long a service may take from start to its first healthy answer, in seconds.
READY_S = 60.0
