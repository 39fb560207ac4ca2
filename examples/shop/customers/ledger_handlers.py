"""As `handlers`, where customers are event-sourced: the same events follow."""

from __future__ import annotations

from uuid import UUID

from ensue import Step
from shop.commands import ReserveCredit
from shop.contracts import CreditReservationFailed, CreditReserved, OrderCancelled, OrderCreated
from shop.customers.ledger import Customer
from shop.customers.service import customers


@customers.on
def reserve_credit(customer: Customer | None, event: OrderCreated, step: Step) -> None:
    if not event.orchestrated:  # else a saga asks for it, once
        reserve(customer, event, step)


@customers.on
def release_credit(customer: Customer | None, event: OrderCancelled, step: Step) -> None:
    release(customer, event.order_id, step)


def reserve(
    customer: Customer | None, asked: OrderCreated | ReserveCredit, step: Step
) -> CreditReserved | CreditReservationFailed:
    """Take the order's total of the credit, or say why not; either is published."""
    if customer is None:
        refused = CreditReservationFailed(
            customer_id=asked.customer_id, order_id=asked.order_id, reason="unknown customer"
        )
        step.publish(refused)
        return refused
    outcome = customer.reserve(asked.order_id, asked.total)
    step.record(customer, outcome)
    return outcome


def release(customer: Customer | None, order_id: UUID, step: Step) -> None:
    released = None if customer is None else customer.release(order_id)
    if customer is not None and released is not None:
        step.record(customer, released)
