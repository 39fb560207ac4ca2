"""The view over HTTP; what keeps it up to date runs in the same process."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from ensue.integrations.fastapi import health_routes, install, problem_responses
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
from shop.order_history.model import history_customers, history_orders
from shop.times import Moment

app = FastAPI(title="Order history", lifespan=order_history.lifespan)
install(app)
app.include_router(health_routes(order_history))

Reading = Annotated[AsyncSession, Depends(order_history.reading, scope="function")]
PageLimit = Annotated[int, Query(ge=1, le=1000)]


@app.get("/customers")
async def list_customers(session: Reading, after: UUID | None = None, limit: PageLimit = 100) -> CustomerPage:
    """Customers by id, a page at a time."""
    columns = history_customers.c
    query = select(history_customers).order_by(columns.customer_id).limit(limit)
    if after is not None:
        query = query.where(columns.customer_id > after)
    found = [CustomerView.model_validate(row) for row in await session.execute(query)]
    return CustomerPage(customers=found, after=found[-1].customer_id if len(found) == limit else None)


@app.get("/customers/{customer_id}/orders", responses=problem_responses(404))
async def customer_history(
    customer_id: UUID, session: Reading, after: UUID | None = None, limit: PageLimit = 1000
) -> CustomerHistory:
    """A customer with their orders, oldest first."""
    rows = await session.execute(select(history_customers).where(history_customers.c.customer_id == customer_id))
    row = rows.one_or_none()
    query = select(history_orders).where(history_orders.c.customer_id == customer_id)
    page = await _page(session, query, after, limit)
    if row is None and not page.orders and after is None:
        raise unknown_customer(customer_id)
    customer = None if row is None else CustomerView.model_validate(row)
    return CustomerHistory(customer=customer, orders=page.orders, after=page.after)


@app.get("/orders")
async def list_orders(
    session: Reading,
    status: Status | None = None,
    since: Moment | None = None,
    after: UUID | None = None,
    limit: PageLimit = 100,
) -> OrderPage:
    """Orders, oldest first, a page at a time. since: placed then or later."""
    query = select(history_orders)
    if status is not None:
        query = query.where(history_orders.c.status == status.value)
    if since is not None:
        query = query.where(history_orders.c.placed_at >= since)
    return await _page(session, query, after, limit)


@app.get("/orders/counts")
async def count_orders(session: Reading) -> Counts:
    column = history_orders.c.status
    rows = await session.execute(select(column, func.count()).group_by(column))
    return Counts(**{row[0]: row[1] for row in rows})


async def _page(session: AsyncSession, query: Select[Any], after: UUID | None, limit: int) -> OrderPage:
    """after: the last order of the page before; one that the view does not know ends the list."""
    place = tuple_(history_orders.c.placed_at, history_orders.c.order_id)
    if after is not None:
        last = select(history_orders.c.placed_at, history_orders.c.order_id).where(history_orders.c.order_id == after)
        query = query.where(place > last.scalar_subquery())
    query = query.order_by(history_orders.c.placed_at, history_orders.c.order_id).limit(limit)
    found = [OrderView.model_validate(row) for row in await session.execute(query)]
    return OrderPage(orders=found, after=found[-1].order_id if len(found) == limit else None)
