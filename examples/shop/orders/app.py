"""The orders service over HTTP; its relay and handlers run in the same process."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Query, Response
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from ensue import Step
from ensue.integrations.fastapi import ReadyLimits, install, problem_responses, step_of
from shop.commands import ReleaseCredit
from shop.contracts import OrderCancelled
from shop.orders import orders
from shop.orders.api import (
    Counts,
    NewOrder,
    OrderPage,
    OrderView,
    not_decided,
    not_open,
    other_order,
    unknown_order,
)
from shop.orders.model import Order, Status
from shop.orders.placing import PlaceOrder, create
from shop.settings import ORCHESTRATED

if ORCHESTRATED:
    from shop.orders.place_order import place_order

app = FastAPI(title="Orders")
install(app, orders, health=ReadyLimits(broker=False), metrics=True, tokens=True)

OrdersStep = Annotated[Step, step_of(orders)]
Session = Annotated[AsyncSession, Depends(orders.query, scope="function")]


@app.post(
    "/orders",
    status_code=201,
    responses={200: {"model": OrderView, "description": "The order was there already"}, **problem_responses(409)},
)
async def create_order(new: NewOrder, response: Response, step: OrdersStep) -> OrderView:
    """Place an order. It is NEW until its customer's credit is reserved (OPEN) or refused (REJECTED)."""
    if new.order_id is not None:
        existing = await step.session.get(Order, new.order_id)
        if existing is not None:
            if not new.same_as(existing):
                raise other_order(new.order_id)
            response.status_code = 200
            return OrderView.model_validate(existing)
    placed = PlaceOrder(new.order_id or uuid4(), new.customer_id, new.total, new.placed_at or step.now)
    order = create(placed, step)
    step.session.add(order)
    if ORCHESTRATED:
        step.start(place_order, placed, id=placed.order_id)
    response.headers["Location"] = f"/orders/{order.order_id}"
    return OrderView.model_validate(order)


@app.get("/orders")
async def list_orders(
    session: Session,
    status: Status | None = None,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> OrderPage:
    """Orders by id, a page at a time."""
    query = select(Order).order_by(Order.order_id).limit(limit)
    if status is not None:
        query = query.where(Order.status == status)
    if after is not None:
        query = query.where(Order.order_id > after)
    found = [OrderView.model_validate(order) for order in await session.scalars(query)]
    return OrderPage(orders=found, after=found[-1].order_id if len(found) == limit else None)


@app.get("/orders/counts")
async def count_orders(session: Session) -> Counts:
    rows = await session.execute(select(Order.status, func.count()).group_by(Order.status))
    return Counts(**{status.value: count for status, count in rows})


@app.get("/orders/{order_id}", responses=problem_responses(404))
async def get_order(order_id: UUID, session: Session) -> OrderView:
    order = await session.get(Order, order_id)
    if order is None:
        raise unknown_order(order_id)
    return OrderView.model_validate(order)


@app.post("/orders/{order_id}/cancel", status_code=202, responses=problem_responses(404, 409))
async def cancel_order(order_id: UUID, step: OrdersStep) -> OrderView:
    """Cancel an OPEN order; its credit is released soon after. Cancelling twice is the same as once."""
    order = await step.session.get(Order, order_id, with_for_update=True)
    if order is None:
        raise unknown_order(order_id)
    match order.status:
        case Status.NEW:
            raise not_decided(order)
        case Status.REJECTED:
            raise not_open(order)
        case Status.OPEN:
            order.cancel()
            step.publish(OrderCancelled(order_id=order.order_id, customer_id=order.customer_id))
            if ORCHESTRATED:
                # By way of the event the credit is released too, but perhaps behind the ReserveCredit of the customer's
                # next order: that goes by another topic.
                step.send(ReleaseCredit(customer_id=order.customer_id, order_id=order.order_id))
        case Status.CANCELLED:
            pass
    return OrderView.model_validate(order)
