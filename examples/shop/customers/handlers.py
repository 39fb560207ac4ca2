"""What follows from the orders' events: credit is reserved for an order, and released when it is cancelled."""

from __future__ import annotations

from ensue import Step
from shop.contracts import CreditReleased, CreditReservationFailed, CreditReserved, OrderCancelled, OrderCreated
from shop.customers.model import Customer, Reservation
from shop.customers.service import customers


@customers.on
def reserve_credit(customer: Customer | None, event: OrderCreated, step: Step) -> None:
    order_id, customer_id, total = event.order_id, event.customer_id, event.total
    if customer is None:
        reason = "unknown customer"
    elif not customer.reserve(total):
        reason = f"credit limit exceeded: {total} asked, {customer.available} available"
    else:
        step.session.add(Reservation(order_id=order_id, customer_id=customer_id, amount=total))
        step.publish(CreditReserved(customer_id=customer_id, order_id=order_id, amount=total))
        return
    step.publish(CreditReservationFailed(customer_id=customer_id, order_id=order_id, reason=reason))


@customers.on
async def release_credit(customer: Customer | None, event: OrderCancelled, step: Step) -> None:
    reservation = await step.session.get(Reservation, event.order_id)
    if customer is None or reservation is None:
        return  # nothing was reserved for this order, so there is nothing to release
    customer.release(reservation.amount)
    await step.session.delete(reservation)
    step.publish(CreditReleased(customer_id=event.customer_id, order_id=event.order_id, amount=reservation.amount))
