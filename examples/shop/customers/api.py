"""What travels over HTTP: requests, answers, and the problems that are this service's own."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

from ensue.integrations.fastapi import Problem
from shop.customers.model import Customer
from shop.money import Limit, Shown

#: No control characters: some databases refuse them.
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewCustomer(BaseModel):
    """customer_id: your own, so that sending the customer again makes no second one."""

    model_config = ConfigDict(extra="forbid")

    customer_id: UUID | None = None
    name: Name
    credit_limit: Limit

    def same_as(self, customer: Customer) -> bool:
        return self.name == customer.name and self.credit_limit == customer.credit_limit


class CustomerView(BaseModel):
    """available: the limit less what is reserved for open orders."""

    model_config = ConfigDict(from_attributes=True)

    customer_id: UUID
    name: str
    credit_limit: Shown
    reserved: Shown
    available: Shown


class CreditEvent(BaseModel):
    """One event of a customer's credit history. version: its number there, from 1."""

    version: int
    at: datetime
    what: str
    order_id: UUID | None
    amount: Shown | None
    reason: str | None


class CustomerPage(BaseModel):
    """after: hand it back to get the next page; null on the last one."""

    customers: list[CustomerView]
    after: UUID | None


class Counts(BaseModel):
    customers: int
    reservations: int


def unknown_customer(customer_id: UUID) -> Problem:
    detail = f"There is no customer {customer_id}"
    return Problem(404, "Unknown customer", detail, type="urn:shop:problem:unknown-customer")


def other_customer(customer_id: UUID) -> Problem:
    detail = f"Customer {customer_id} exists, with another name or credit limit; choose another customer_id"
    return Problem(409, "Customer exists", detail, type="urn:shop:problem:customer-exists")
