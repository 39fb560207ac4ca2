"""The customers service over HTTP; its relay and handlers run in the same process."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Query, Response

from ensue import Step
from ensue.integrations.fastapi import ReadyLimits, install, problem_responses, step_of
from shop.customers import by_events, by_rows, customers
from shop.customers.api import Counts, CreditEvent, CustomerPage, CustomerView, NewCustomer, unknown_customer
from shop.customers.desk import Desk
from shop.settings import EVENT_SOURCED

app = FastAPI(title="Customers")
install(app, customers, health=ReadyLimits(broker=False), metrics=True, tokens=True)

CustomersStep = Annotated[Step, step_of(customers)]
desk: Desk = by_events if EVENT_SOURCED else by_rows


@app.post(
    "/customers",
    status_code=201,
    responses={200: {"model": CustomerView, "description": "The customer was there already"}, **problem_responses(409)},
)
async def create_customer(new: NewCustomer, response: Response, step: CustomersStep) -> CustomerView:
    customer, is_new = await desk.create(new, step)
    if is_new:
        response.headers["Location"] = f"/customers/{customer.customer_id}"
    else:
        response.status_code = 200
    return customer


@app.get("/customers")
async def list_customers(after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> CustomerPage:
    """Customers by id, a page at a time."""
    found = await desk.page(after, limit)
    return CustomerPage(customers=found, after=found[-1].customer_id if len(found) == limit else None)


@app.get("/customers/counts")
async def count_customers() -> Counts:
    return await desk.counts()


@app.get("/customers/{customer_id}", responses=problem_responses(404))
async def get_customer(customer_id: UUID) -> CustomerView:
    customer = await desk.get(customer_id)
    if customer is None:
        raise unknown_customer(customer_id)
    return customer


if EVENT_SOURCED:

    @app.get("/customers/{customer_id}/credit", responses=problem_responses(404))
    async def credit_history(customer_id: UUID) -> list[CreditEvent]:
        """All that has happened to a customer's credit, in order."""
        found = await by_events.history(customer_id)
        if not found:
            raise unknown_customer(customer_id)
        return found
