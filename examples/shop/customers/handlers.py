"""What follows from the orders' events: credit is reserved for an order, and released when it is cancelled."""

from __future__ import annotations

from uuid import UUID

from ensue import Step
from shop.commands import ReserveCredit
from shop.contracts import CreditReleased, CreditReservationFailed, CreditReserved, OrderCancelled, OrderCreated
from shop.customers.model import Customer, Reservation
from shop.customers.service import customers


@customers.on
def reserve_credit(customer: Customer | None, event: OrderCreated, step: Step) -> None:
    if not event.orchestrated:  # else a saga asks for it, once
        reserve(customer, event, step)


@customers.on
async def release_credit(customer: Customer | None, event: OrderCancelled, step: Step) -> None:
    await release(customer, event.order_id, step)


def reserve(
    customer: Customer | None, asked: OrderCreated | ReserveCredit, step: Step
) -> CreditReserved | CreditReservationFailed:
    """Take the order's total of the credit, or say why not; either is published."""
    order_id, customer_id, total = asked.order_id, asked.customer_id, asked.total
    outcome: CreditReserved | CreditReservationFailed
    if customer is not None and customer.reserve(total):
        step.session.add(Reservation(order_id=order_id, customer_id=customer_id, amount=total))
        outcome = CreditReserved(customer_id=customer_id, order_id=order_id, amount=total)
    else:
        reason = "unknown customer"
        if customer is not None:
            reason = f"credit limit exceeded: {total} asked, {customer.available} available"
        outcome = CreditReservationFailed(customer_id=customer_id, order_id=order_id, reason=reason)
    step.publish(outcome)
    return outcome


async def release(customer: Customer | None, order_id: UUID, step: Step) -> None:
    reservation = await step.session.get(Reservation, order_id)
    if customer is None or reservation is None:
        return  # nothing is reserved for this order, so there is nothing to release
    customer.release(reservation.amount)
    await step.session.delete(reservation)
    step.publish(CreditReleased(customer_id=customer.customer_id, order_id=order_id, amount=reservation.amount))
