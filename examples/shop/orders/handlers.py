"""What follows from the customers' events: an order is opened or rejected, unless a saga does that."""

from __future__ import annotations

from ensue import Step
from shop.contracts import CreditReservationFailed, CreditReserved, OrderOpened, OrderRejected
from shop.orders.model import Order
from shop.orders.service import orders


@orders.on
def open_order(order: Order, event: CreditReserved, step: Step) -> None:
    if order.orchestrated:
        return
    order.open()
    step.publish(OrderOpened(order_id=order.order_id, customer_id=order.customer_id))


@orders.on
def reject_order(order: Order, event: CreditReservationFailed, step: Step) -> None:
    if order.orchestrated:
        return
    order.reject(event.reason)
    step.publish(OrderRejected(order_id=order.order_id, customer_id=order.customer_id, reason=event.reason))
