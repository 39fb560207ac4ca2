"""Two services with a database each: an order is placed, its credit is reserved, and it is OPEN."""

import asyncio
from uuid import UUID, uuid4

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Event, Service, Step


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
    status: Mapped[str]


class Customers(DeclarativeBase): ...


class Customer(Customers):
    __tablename__ = "customers"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    credit: Mapped[int]


orders = Service("orders", tables=Orders.metadata)
customers = Service("customers", tables=Customers.metadata)


@customers.on
def reserve_credit(customer: Customer, event: OrderCreated, step: Step) -> None:
    if event.total <= customer.credit:
        customer.credit -= event.total
        step.publish(CreditReserved(order_id=event.order_id, customer_id=customer.id))


@orders.on
def open_order(order: Order, event: CreditReserved) -> None:
    order.status = "OPEN"


async def main() -> None:
    async with orders.running(), customers.running():
        customer_id, order_id = uuid4(), uuid4()
        async with customers.step() as step:  # a step is one local transaction
            step.session.add(Customer(id=customer_id, credit=100_00))
        async with orders.step() as step:  # the order and its event: both, or neither
            step.session.add(Order(id=order_id, status="NEW"))
            step.publish(OrderCreated(order_id=order_id, customer_id=customer_id, total=30_00))
        status = "NEW"
        while status == "NEW":
            await asyncio.sleep(0.01)
            async with orders.query() as session:
                status = (await session.get_one(Order, order_id)).status
        print(f"order {order_id} is {status}")


if __name__ == "__main__":
    asyncio.run(main())
