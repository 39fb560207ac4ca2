"""What is asked of this service, and what follows from a cancelled order. Each is a saga: a provider stands behind it.

What a saga is at is written down before the provider is asked and after it has answered. So a Void that comes in
between is not lost: it says so in the payment, and whoever is at it lets go what is held by then.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from ensue import Saga, Step
from shop.commands import Authorise, Authorised, Capture, CardRefused, PaymentKnown, Void
from shop.contracts import OrderCancelled
from shop.payments.model import Payment, Status
from shop.payments.provider import give_back, hold, let_go, take
from shop.payments.service import payments

#: How long one answer of the provider is waited for, and how often it is asked, over more than half an hour.
LIMIT, ATTEMPTS = timedelta(seconds=2), 15

# ------------------------------------------------------------------------------------------------- hold it, let it go


@payments.local
def begin(payment: Payment | None, order_id: UUID, amount: Decimal) -> Payment:
    if payment is not None:
        raise PaymentKnown(status=payment.status)
    return Payment(order_id=order_id, amount=amount)


@payments.local
def note_held(payment: Payment, order_id: UUID, reference: str) -> None:
    if payment.status is Status.VOIDED:  # while the provider was asked: what it holds now is let go, as the undo of it
        raise PaymentKnown(status=payment.status)
    payment.move("authorise")
    payment.reference = reference


@payments.local
def note_refused(payment: Payment, order_id: UUID, reason: str) -> None:
    if payment.status is not Status.VOIDED:
        payment.move("refuse")
        payment.reason = reason


@payments.local
def note_given_up(payment: Payment, order_id: UUID) -> None:
    if payment.status is Status.ASKED:
        payment.move("void")


@payments.saga(handles=Authorise)
async def authorise(saga: Saga, command: Authorise) -> Authorised:
    order_id, amount = command.order_id, command.amount
    await saga.local(begin, order_id, amount, undo=saga.local(note_given_up, order_id))
    try:
        reference: str = await saga.outside(
            hold, order_id, command.customer_id, amount,
            undo=saga.outside(let_go, order_id), attempts=ATTEMPTS, limit=LIMIT,
        )  # fmt: skip
    except CardRefused as refused:
        await saga.local(note_refused, order_id, refused.reason, undo=None)
        raise
    await saga.local(note_held, order_id, reference, undo=None)
    return Authorised(order_id, reference)


@payments.local
def note_void(payment: Payment | None, order_id: UUID) -> bool | tuple[Payment, bool]:
    """Returns whether something is held, and nobody else lets it go."""
    if payment is None:  # Authorise is here already, since it was sent before: it finds this when it begins
        return Payment(order_id=order_id, amount=Decimal("0.00"), status=Status.VOIDED), False
    held = payment.status is Status.AUTHORISED
    if payment.status not in (Status.REFUSED, Status.VOIDED):
        payment.move("void")
    return held


@payments.saga(handles=Void)
async def void(saga: Saga, command: Void) -> None:
    saga.pivot()
    if await saga.local(note_void, command.order_id):
        await saga.outside(let_go, command.order_id, attempts=ATTEMPTS, limit=LIMIT)


# --------------------------------------------------------------------------------------------- take it, give it back


@payments.local
def note_taken(payment: Payment, order_id: UUID) -> None:
    payment.move("capture")


@payments.saga(handles=Capture)
async def capture(saga: Saga, command: Capture) -> None:
    saga.pivot()
    await saga.outside(take, command.order_id, command.amount, attempts=ATTEMPTS, limit=LIMIT)
    await saga.local(note_taken, command.order_id)


@dataclasses.dataclass(frozen=True, slots=True)
class Refund:
    order_id: UUID
    amount: Decimal


@payments.local
def note_refunded(payment: Payment, order_id: UUID) -> None:
    payment.move("refund")


@payments.saga
async def refund(saga: Saga, of: Refund) -> None:
    saga.pivot()
    await saga.outside(give_back, of.order_id, of.amount, attempts=ATTEMPTS, limit=LIMIT)
    await saga.local(note_refunded, of.order_id)


@payments.on
def refund_cancelled(payment: Payment | None, event: OrderCancelled, step: Step) -> None:
    """An order that is cancelled was OPEN, so what it cost was taken; nothing, where it was placed by choreography."""
    if payment is not None:
        step.start(refund, Refund(event.order_id, payment.amount), id=event.order_id)
