"""Customers that are event-sourced: see `ledger`."""

from __future__ import annotations

from uuid import UUID, uuid4

from ensue import Step
from shop.customers.api import Counts, CreditEvent, CustomerView, NewCustomer, other_customer
from shop.customers.ledger import Customer
from shop.customers.service import customers

_PAGE = 1000


async def create(new: NewCustomer, step: Step) -> tuple[CustomerView, bool]:
    customer_id = new.customer_id or uuid4()
    existing = await step.load(Customer, customer_id)
    if existing is not None:
        if (existing.name, existing.credit_limit) != (new.name, new.credit_limit):
            raise other_customer(customer_id)
        return CustomerView.model_validate(existing), False
    customer = Customer(customer_id=customer_id)
    step.record(customer, customer.create(new.name, new.credit_limit))
    return CustomerView.model_validate(customer), True


async def get(customer_id: UUID) -> CustomerView | None:
    customer = await customers.current(Customer, customer_id)
    return None if customer is None else CustomerView.model_validate(customer)


async def page(after: UUID | None, limit: int) -> list[CustomerView]:
    found = await customers.page(Customer, after=after, limit=limit)
    return [CustomerView.model_validate(customer) for customer in found]


async def counts() -> Counts:
    found = reservations = 0
    after: UUID | None = None
    while some := await customers.page(Customer, after=after, limit=_PAGE):
        found += len(some)
        reservations += sum([len(each.reservations) for each in some])
        after = some[-1].customer_id
    return Counts(customers=found, reservations=reservations)


async def history(customer_id: UUID) -> list[CreditEvent]:
    """What has happened to a customer's credit: it falls out of how the customer is kept."""
    return [
        CreditEvent(
            version=each.version,
            at=each.time,
            what=type(each.event).__name__,
            order_id=getattr(each.event, "order_id", None),
            amount=getattr(each.event, "amount", None),
            reason=getattr(each.event, "reason", None),
        )
        for each in await customers.history(Customer, customer_id)
    ]
