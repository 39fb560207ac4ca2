"""The payments service over HTTP, to be looked at; its relay and sagas run in the same process."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ensue.integrations.fastapi import ReadyLimits, install, problem_responses
from shop.payments import payments
from shop.payments.api import PaymentPage, PaymentView, unknown_payment
from shop.payments.model import Payment

app = FastAPI(title="Payments")
install(app, payments, health=ReadyLimits(broker=False), metrics=True)

Session = Annotated[AsyncSession, Depends(payments.query, scope="function")]


@app.get("/payments")
async def list_payments(
    session: Session, after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> PaymentPage:
    """Payments by order, a page at a time."""
    query = select(Payment).order_by(Payment.order_id).limit(limit)
    if after is not None:
        query = query.where(Payment.order_id > after)
    found = [PaymentView.model_validate(payment) for payment in await session.scalars(query)]
    return PaymentPage(payments=found, after=found[-1].order_id if len(found) == limit else None)


@app.get("/payments/{order_id}", responses=problem_responses(404))
async def get_payment(order_id: UUID, session: Session) -> PaymentView:
    payment = await session.get(Payment, order_id)
    if payment is None:
        raise unknown_payment(order_id)
    return PaymentView.model_validate(payment)
