"""Two services with a database each: an order is placed, its credit is reserved, and it is OPEN."""

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import FastAPI
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Event, Service, Step
from ensue.integrations.fastapi import Problem, install, step_of


class OrderCreated(Event, topic="orders", key="customer_id"):
    order_id: UUID
    customer_id: UUID
    total: int  # in pence


class CreditReserved(Event, topic="customers", key="customer_id"):
    order_id: UUID
    customer_id: UUID


class Orders(DeclarativeBase): ...


class Order(Orders):
    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="NEW")


class Customers(DeclarativeBase): ...


class Customer(Customers):
    __tablename__ = "customers"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    credit: Mapped[int]


orders = Service("orders", tables=Orders.metadata, publishes=[OrderCreated])
customers = Service("customers", tables=Customers.metadata, publishes=[CreditReserved])
app = FastAPI()
install(app, orders)  # runs it; problem documents, Idempotency-Key, a limit for bodies
install(app, customers)  # here or in a process of its own
OrdersStep = Annotated[Step, step_of(orders)]


@app.post("/orders", status_code=201)
async def place_order(customer_id: UUID, total: int, step: OrdersStep) -> UUID:
    order = Order(id=uuid4())
    step.session.add(order)  # the order and its event: both, or neither, and no 201 before the commit
    step.publish(OrderCreated(order_id=order.id, customer_id=customer_id, total=total))
    return order.id


@customers.on
def reserve_credit(customer: Customer | None, event: OrderCreated, step: Step) -> Customer:
    customer = customer or Customer(id=event.customer_id, credit=100_00)
    if event.total <= customer.credit:
        customer.credit -= event.total
        step.publish(CreditReserved(order_id=event.order_id, customer_id=customer.id))
    return customer


@orders.on
def open_order(order: Order, event: CreditReserved) -> None:
    order.status = "OPEN"


@app.get("/orders/{order_id}")
async def show_order(order_id: UUID, step: OrdersStep) -> str:
    if order := await step.session.get(Order, order_id):
        return order.status
    raise Problem(404, detail=f"There is no order {order_id}")
