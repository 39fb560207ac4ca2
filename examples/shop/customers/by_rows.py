"""Customers that are rows of tables: see `model`."""

from __future__ import annotations

from uuid import UUID, uuid4

from sqlalchemy import func, select

from ensue import Step
from shop.contracts import CustomerCreated
from shop.customers.api import Counts, CustomerView, NewCustomer, other_customer
from shop.customers.model import Customer, Reservation
from shop.customers.service import customers


async def create(new: NewCustomer, step: Step) -> tuple[CustomerView, bool]:
    if new.customer_id is not None:
        existing = await step.session.get(Customer, new.customer_id)
        if existing is not None:
            if not new.same_as(existing):
                raise other_customer(new.customer_id)
            return CustomerView.model_validate(existing), False
    customer = Customer(customer_id=new.customer_id or uuid4(), name=new.name, credit_limit=new.credit_limit)
    step.session.add(customer)
    step.publish(
        CustomerCreated(customer_id=customer.customer_id, name=customer.name, credit_limit=customer.credit_limit)
    )
    return CustomerView.model_validate(customer), True


async def get(customer_id: UUID) -> CustomerView | None:
    async with customers.query() as session:
        customer = await session.get(Customer, customer_id)
        return None if customer is None else CustomerView.model_validate(customer)


async def page(after: UUID | None, limit: int) -> list[CustomerView]:
    query = select(Customer).order_by(Customer.customer_id).limit(limit)
    if after is not None:
        query = query.where(Customer.customer_id > after)
    async with customers.query() as session:
        return [CustomerView.model_validate(customer) for customer in await session.scalars(query)]


async def counts() -> Counts:
    async with customers.query() as session:
        found = await session.scalar(select(func.count()).select_from(Customer))
        reservations = await session.scalar(select(func.count()).select_from(Reservation))
    return Counts(customers=found or 0, reservations=reservations or 0)
