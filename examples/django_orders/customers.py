"""The other service: customers and their credit, with FastAPI and SQLAlchemy. Run it with
`ensue run django_orders.customers:customers`, or with its routes by `uvicorn django_orders.customers:app`."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from django_orders.contracts import CreditRefused, CreditReserved, OrderPlaced
from ensue import Service, Step
from ensue.integrations.fastapi import install, step_of


class Base(DeclarativeBase): ...


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    credit: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)


customers = Service(
    "web-customers",
    database=os.environ.get("CUSTOMERS_DATABASE", "sqlite:///customers.db"),
    broker=os.environ.get("SHOP_BROKER", "sqlite:///broker.db"),
    publishes=[CreditReserved, CreditRefused],
    tables=Base.metadata,
)


@customers.on
def reserve(customer: Customer | None, event: OrderPlaced, step: Step) -> None:
    available = 0 if customer is None else customer.credit - customer.reserved
    if customer is None or event.total > available:
        step.publish(CreditRefused(order_id=event.order_id, customer_id=event.customer_id, available=available))
        return
    customer.reserved += event.total
    step.publish(CreditReserved(order_id=event.order_id, customer_id=event.customer_id))


class NewCustomer(BaseModel):
    id: int
    credit: int


app = FastAPI()
install(app, customers)


@app.post("/customers", status_code=201)
async def create(new: NewCustomer, step: Annotated[Step, step_of(customers)]) -> None:
    step.session.add(Customer(id=new.id, credit=new.credit))


@app.get("/customers/{customer_id}")
async def show(customer_id: int, session: Annotated[AsyncSession, Depends(customers.query)]) -> dict[str, int]:
    customer = await session.get(Customer, customer_id)
    if customer is None:
        raise HTTPException(404)
    return {"credit": customer.credit, "reserved": customer.reserved}
