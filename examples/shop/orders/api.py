"""What travels over HTTP: requests, answers, and the problems that are this service's own."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from ensue.integrations.fastapi import Problem
from shop.money import Amount, Shown
from shop.orders.model import Order, Status
from shop.times import Moment


class NewOrder(BaseModel):
    """order_id: your own, so that sending the order again makes no second one. placed_at: else now."""

    model_config = ConfigDict(extra="forbid")

    order_id: UUID | None = None
    customer_id: UUID
    total: Amount
    placed_at: Moment | None = None

    def same_as(self, order: Order) -> bool:
        return (
            self.customer_id == order.customer_id
            and self.total == order.total
            and self.placed_at in (None, order.placed_at)
        )


class OrderView(BaseModel):
    """reason: why the order was rejected, else empty."""

    model_config = ConfigDict(from_attributes=True)

    order_id: UUID
    customer_id: UUID
    total: Shown
    placed_at: datetime
    status: Status
    reason: str


class OrderPage(BaseModel):
    """after: hand it back to get the next page; null on the last one."""

    orders: list[OrderView]
    after: UUID | None


class Counts(BaseModel):
    NEW: int = 0
    OPEN: int = 0
    REJECTED: int = 0
    CANCELLED: int = 0


def unknown_order(order_id: UUID) -> Problem:
    return Problem(404, "Unknown order", f"There is no order {order_id}", type="urn:shop:problem:unknown-order")


def other_order(order_id: UUID) -> Problem:
    detail = f"Order {order_id} exists, with another customer, total or time; choose another order_id"
    return Problem(409, "Order exists", detail, type="urn:shop:problem:order-exists")


def not_decided(order: Order) -> Problem:
    detail = f"Order {order.order_id} is NEW: its customer's credit is being looked at. Cancel it when that is decided"
    return Problem(
        409,
        "Order not decided yet",
        detail,
        type="urn:shop:problem:order-not-decided",
        headers={"Retry-After": "1"},
        status_of_order=order.status,
    )


def not_open(order: Order) -> Problem:
    detail = f"Order {order.order_id} was rejected: {order.reason}. There is nothing to cancel"
    return Problem(
        409, "Order was rejected", detail, type="urn:shop:problem:order-rejected", status_of_order=order.status
    )
