"""What travels over HTTP: answers, and the problems that are this service's own."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from ensue.integrations.fastapi import Problem
from shop.money import Shown
from shop.payments.model import Status


class PaymentView(BaseModel):
    """reference: the provider's, once it holds the money. reason: why the card was refused, else empty."""

    model_config = ConfigDict(from_attributes=True)

    order_id: UUID
    amount: Shown
    status: Status
    reference: str
    reason: str


class PaymentPage(BaseModel):
    """after: hand it back to get the next page; null on the last one."""

    payments: list[PaymentView]
    after: UUID | None


def unknown_payment(order_id: UUID) -> Problem:
    detail = f"There is no payment of order {order_id}"
    return Problem(404, "Unknown payment", detail, type="urn:shop:problem:unknown-payment")
