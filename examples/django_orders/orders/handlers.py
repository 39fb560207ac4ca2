"""What other services tell that concerns orders. Each handler is one transaction: the rows and the events."""

from __future__ import annotations

from django_orders.contracts import CreditRefused, CreditReserved, OrderOpened, OrderRejected
from django_orders.orders.models import Order
from ensue.integrations.django import on, publish


@on
def open_order(event: CreditReserved) -> None:
    _decide(event.order_id, "open", "credit reserved")
    publish(OrderOpened(order_id=event.order_id, customer_id=event.customer_id))


@on
def reject_order(event: CreditRefused) -> None:
    _decide(event.order_id, "rejected", f"only {event.available} available")
    publish(OrderRejected(order_id=event.order_id, customer_id=event.customer_id))


def _decide(order_id: int, state: str, why: str) -> None:
    order = Order.objects.select_for_update().get(pk=order_id)
    order.state = state
    order.save()
    order.changes.create(text=why)
