"""An order placed by orchestration: one function says what follows what, and how it is undone."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from ensue import Saga, Step, TimeLimitExceeded
from shop.commands import Authorise, Capture, CardRefused, CreditRefused, ReleaseCredit, ReserveCredit, Void
from shop.contracts import OrderOpened, OrderRejected
from shop.orders.model import Order, Status
from shop.orders.placing import PlaceOrder, create
from shop.orders.service import orders

#: An order that is not paid by then is given up.
PAY_WITHIN = timedelta(minutes=15)
#: Why an order is rejected that nobody refused: the deadline has passed, or a person has cancelled its saga.
GIVEN_UP = "given up before it was decided"
UNPAID = f"not paid within {PAY_WITHIN.total_seconds() / 60:g} minutes"


@orders.local
def create_order(order: Order | None, new: PlaceOrder, step: Step) -> Order:
    """It is there already where the step that has started the saga created it, so that its answer could show it."""
    return order or create(new, step)


@orders.local
def reject_order(order: Order, order_id: UUID, reason: str, step: Step) -> None:
    if order.status is Status.NEW:
        order.reject(reason)
        step.publish(OrderRejected(order_id=order_id, customer_id=order.customer_id, reason=reason))


@orders.local
def open_order(order: Order, order_id: UUID, step: Step) -> None:
    order.open()
    step.publish(OrderOpened(order_id=order_id, customer_id=order.customer_id))


@orders.saga(deadline=timedelta(hours=1))
async def place_order(saga: Saga, new: PlaceOrder) -> None:
    """What can be refused comes first: the credit, which costs nothing, then the card. Behind the pivot nothing can be
    refused any more: the money is taken there, since giving it back would be no undo (a customer sees both), and the
    order is opened last, so that an OPEN order is a paid one."""
    order_id, customer_id, total = new.order_id, new.customer_id, new.total
    await saga.local(create_order, new, undo=saga.local(reject_order, order_id, GIVEN_UP))
    try:
        await saga.call(
            ReserveCredit(customer_id=customer_id, order_id=order_id, total=total),
            undo=ReleaseCredit(customer_id=customer_id, order_id=order_id),
        )
        await saga.call(
            Authorise(order_id=order_id, customer_id=customer_id, amount=total),
            undo=Void(order_id=order_id),
            limit=PAY_WITHIN,
        )
    except (CreditRefused, CardRefused, TimeLimitExceeded) as refused:
        # Said here, since an undo knows nothing of the reason; that of create_order then finds it done.
        reason = UNPAID if isinstance(refused, TimeLimitExceeded) else refused.reason
        await saga.local(reject_order, order_id, reason, undo=None)
        raise
    saga.pivot()
    await saga.call(Capture(order_id=order_id, amount=total))
    await saga.local(open_order, order_id)
