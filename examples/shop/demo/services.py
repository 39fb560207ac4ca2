"""The services of the shop: their names, in the order in which they are shown, and where their code is."""

from __future__ import annotations

from collections.abc import Container, Mapping

APPLICATIONS = {
    "orders": "shop.orders.app:app",
    "customers": "shop.customers.app:app",
    "order_history": "shop.order_history.app:app",
    "payments": "shop.payments.app:app",
}
#: The one that is a view; its version, whose rows are in a place of their own beside the database of its URL.
VIEW, VERSION = "order_history", 1
#: By choreography.
SERVICES = ("orders", "customers", "order_history")
#: By orchestration, and with them the provider, which is none of the shop's.
PAID = (*SERVICES, "payments")
PROVIDER = "provider"

#: What each reads. Said here too, and not only taken from what is stored: a subscription that never began must show.
SUBSCRIBES = {"orders": ("customers",), "customers": ("orders",), "order_history": ("customers", "orders")}
#: By orchestration: commands too, answers, and what a service says to its own sagas.
SUBSCRIBES_PAID = {
    "orders": ("customers", "orders.replies"),
    "customers": ("customers.commands", "orders"),
    "order_history": ("customers", "orders"),
    "payments": ("orders", "payments.commands", "payments.replies"),
}
#: How long a service may take to stop in an orderly way before it is killed, in seconds.
STOP_S = 3.0
#: How long a service may take from start to its first healthy answer, in seconds.
READY_S = 60.0


def subscribes(services: Container[str]) -> Mapping[str, tuple[str, ...]]:
    """What each of these services reads; with payments among them orders are placed by orchestration."""
    return SUBSCRIBES_PAID if "payments" in services else SUBSCRIBES
