"""The fold: how each event changes the view.

The two topics have no order between them: a customer's orders may be seen before the customer is. So customers and
orders are rows of their own, joined when they are read. Within one topic the order of a customer's events holds.
"""

from __future__ import annotations

from shop.contracts import (
    CreditReleased,
    CreditReserved,
    CustomerCreated,
    OrderCancelled,
    OrderCreated,
    OrderOpened,
    OrderRejected,
)
from shop.order_history.model import HistoryCustomer, HistoryOrder
from shop.order_history.service import order_history


@order_history.on
def add_customer(customer: HistoryCustomer | None, event: CustomerCreated) -> HistoryCustomer:
    return HistoryCustomer(event.customer_id, event.name, event.credit_limit)


@order_history.on
def add_reservation(customer: HistoryCustomer, event: CreditReserved) -> None:
    customer.reserved += event.amount


@order_history.on
def remove_reservation(customer: HistoryCustomer, event: CreditReleased) -> None:
    customer.reserved -= event.amount


@order_history.on
def add_order(order: HistoryOrder | None, event: OrderCreated) -> HistoryOrder:
    return order or HistoryOrder(event.order_id, event.customer_id, event.total, event.placed_at)


@order_history.on
def show_open(order: HistoryOrder, event: OrderOpened) -> None:
    order.advance("OPEN")


@order_history.on
def show_rejected(order: HistoryOrder, event: OrderRejected) -> None:
    order.advance("REJECTED", event.reason)


@order_history.on
def show_cancelled(order: HistoryOrder, event: OrderCancelled) -> None:
    order.advance("CANCELLED")
