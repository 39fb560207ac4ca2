"""The customers service over HTTP; its relay and handlers run in the same process."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Query, Response
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from ensue import Step
from ensue.integrations.fastapi import ReadyLimits, install, problem_responses, step_of
from shop.contracts import CustomerCreated
from shop.customers import customers
from shop.customers.api import (
    Counts,
    CustomerPage,
    CustomerView,
    NewCustomer,
    other_customer,
    unknown_customer,
)
from shop.customers.model import Customer, Reservation

app = FastAPI(title="Customers")
install(app, customers, health=ReadyLimits(broker=False), metrics=True)

CustomersStep = Annotated[Step, step_of(customers)]
Session = Annotated[AsyncSession, Depends(customers.query, scope="function")]


@app.post(
    "/customers",
    status_code=201,
    responses={200: {"model": CustomerView, "description": "The customer was there already"}, **problem_responses(409)},
)
async def create_customer(new: NewCustomer, response: Response, step: CustomersStep) -> CustomerView:
    if new.customer_id is not None:
        existing = await step.session.get(Customer, new.customer_id)
        if existing is not None:
            if not new.same_as(existing):
                raise other_customer(new.customer_id)
            response.status_code = 200
            return CustomerView.model_validate(existing)
    customer = Customer(customer_id=new.customer_id or uuid4(), name=new.name, credit_limit=new.credit_limit)
    step.session.add(customer)
    step.publish(
        CustomerCreated(customer_id=customer.customer_id, name=customer.name, credit_limit=customer.credit_limit)
    )
    response.headers["Location"] = f"/customers/{customer.customer_id}"
    return CustomerView.model_validate(customer)


@app.get("/customers")
async def list_customers(
    session: Session, after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> CustomerPage:
    """Customers by id, a page at a time."""
    query = select(Customer).order_by(Customer.customer_id).limit(limit)
    if after is not None:
        query = query.where(Customer.customer_id > after)
    found = [CustomerView.model_validate(customer) for customer in await session.scalars(query)]
    return CustomerPage(customers=found, after=found[-1].customer_id if len(found) == limit else None)


@app.get("/customers/counts")
async def count_customers(session: Session) -> Counts:
    customers_found = await session.scalar(select(func.count()).select_from(Customer))
    reservations = await session.scalar(select(func.count()).select_from(Reservation))
    return Counts(customers=customers_found or 0, reservations=reservations or 0)


@app.get("/customers/{customer_id}", responses=problem_responses(404))
async def get_customer(customer_id: UUID, session: Session) -> CustomerView:
    customer = await session.get(Customer, customer_id)
    if customer is None:
        raise unknown_customer(customer_id)
    return CustomerView.model_validate(customer)
