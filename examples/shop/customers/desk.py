"""What the HTTP interface asks of the customers, however they are kept: by `by_rows` or `by_events`."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from ensue import Step
from shop.customers.api import Counts, CustomerView, NewCustomer


class Desk(Protocol):
    async def create(self, new: NewCustomer, step: Step) -> tuple[CustomerView, bool]:
        """The customer, and whether it is new. Raises a Problem when there is another one under its id."""

    async def get(self, customer_id: UUID) -> CustomerView | None: ...

    async def page(self, after: UUID | None, limit: int) -> list[CustomerView]:
        """Customers by id."""

    async def counts(self) -> Counts: ...
