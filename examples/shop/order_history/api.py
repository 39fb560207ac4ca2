"""What travels over HTTP: answers, and the problems that are this service's own."""

from __future__ import annotations

import enum
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from ensue.integrations.fastapi import Problem
from shop.money import Shown


class Status(enum.StrEnum):
    NEW = "NEW"
    OPEN = "OPEN"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


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


class CustomerView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    customer_id: UUID
    name: str
    credit_limit: Shown
    reserved: Shown


class CustomerPage(BaseModel):
    """after: hand it back to get the next page; null on the last one."""

    customers: list[CustomerView]
    after: UUID | None


class CustomerHistory(BaseModel):
    """customer: null while the view has seen orders of a customer but not yet the customer."""

    customer: CustomerView | None
    orders: list[OrderView]
    after: UUID | None


class Counts(BaseModel):
    NEW: int = 0
    OPEN: int = 0
    REJECTED: int = 0
    CANCELLED: int = 0


def unknown_customer(customer_id: UUID) -> Problem:
    detail = f"The view has seen neither customer {customer_id} nor an order of theirs"
    return Problem(404, "Unknown customer", detail, type="urn:shop:problem:unknown-customer")
