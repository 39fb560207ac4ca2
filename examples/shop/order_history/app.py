"""The view over HTTP; what keeps it up to date runs in the same process."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query

from ensue import Rows
from ensue.integrations.fastapi import install, problem_responses
from shop.order_history import order_history
from shop.order_history.api import (
    Counts,
    CustomerHistory,
    CustomerPage,
    CustomerView,
    OrderPage,
    OrderView,
    Status,
    unknown_customer,
)
from shop.order_history.model import HistoryCustomer, HistoryOrder
from shop.times import Moment

app = FastAPI(title="Order history")
install(app, order_history, health=True, metrics=True, tokens=True)

Reading = Annotated[Rows, Depends(order_history.rows, scope="function")]
PageLimit = Annotated[int, Query(ge=1, le=1000)]


@app.get("/customers")
async def list_customers(rows: Reading, after: UUID | None = None, limit: PageLimit = 100) -> CustomerPage:
    """Customers by id, a page at a time."""
    found = await rows.find(HistoryCustomer, after=None if after is None else (after,), limit=limit)
    customers = [CustomerView.model_validate(each) for each in found]
    return CustomerPage(customers=customers, after=customers[-1].customer_id if len(customers) == limit else None)


@app.get("/customers/{customer_id}/orders", responses=problem_responses(404))
async def customer_history(
    customer_id: UUID, rows: Reading, after: UUID | None = None, limit: PageLimit = 1000
) -> CustomerHistory:
    """A customer with their orders, oldest first."""
    found = await rows.get(HistoryCustomer, customer_id)
    page = await _page(rows, {"customer_id": customer_id}, None, after, limit)
    if found is None and not page.orders and after is None:
        raise unknown_customer(customer_id)
    customer = None if found is None else CustomerView.model_validate(found)
    return CustomerHistory(customer=customer, orders=page.orders, after=page.after)


@app.get("/orders")
async def list_orders(
    rows: Reading,
    status: Status | None = None,
    since: Moment | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> OrderPage:
    """Orders, oldest first, a page at a time. since: placed then or later."""
    return await _page(rows, {} if status is None else {"status": status.value}, since, after, limit)


@app.get("/orders/counts")
async def count_orders(rows: Reading) -> Counts:
    return Counts(**{each.value: await rows.count(HistoryOrder, by={"status": each.value}) for each in Status})


async def _page(rows: Rows, by: dict[str, object], since: datetime | None, after: UUID | None, limit: int) -> OrderPage:
    """after: the last order of the page before; one that the view does not know ends the list."""
    last = None
    if after is not None:
        last = await rows.get(HistoryOrder, after)
        if last is None:
            return OrderPage(orders=[], after=None)
    found = await rows.find(HistoryOrder, by=by, since=since, after=last, limit=limit)
    orders = [OrderView.model_validate(each) for each in found]
    return OrderPage(orders=orders, after=orders[-1].order_id if len(orders) == limit else None)
