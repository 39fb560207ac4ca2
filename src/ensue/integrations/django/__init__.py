"""Django: events in its own transactions, handlers that use its ORM, and what people see of them in its admin.

    # settings.py
    INSTALLED_APPS = [..., "ensue.integrations.django"]
    ENSUE = {"SERVICE": "orders", "BROKER": "nats://localhost"}

    # orders/views.py
    with transaction.atomic():
        order.save()
        publish(OrderPlaced(order_id=order.id))

    # orders/handlers.py
    @on
    def open_order(event: CreditReserved) -> None:
        Order.objects.filter(id=event.order_id).update(state="open")

See docs/how-to/django.md, and docs/adr/0056 for how handlers and Ensue share a transaction.
"""

from __future__ import annotations

from ensue.errors import not_installed

try:
    import django  # noqa: F401
except ImportError as error:
    raise not_installed("ensue.integrations.django", "django") from error

from ensue.integrations.django.idempotency import idempotent
from ensue.integrations.django.project import (
    every,
    handles,
    local,
    on,
    outside,
    publish,
    saga,
    send,
    service,
    start,
)
from ensue.integrations.django.repository import DjangoRepository
from ensue.integrations.django.service import DjangoService

__all__ = [
    "DjangoRepository",
    "DjangoService",
    "every",
    "handles",
    "idempotent",
    "local",
    "on",
    "outside",
    "publish",
    "saga",
    "send",
    "service",
    "start",
]
