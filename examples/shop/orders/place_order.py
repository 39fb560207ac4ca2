"""An order placed by orchestration: one function says what follows what, and how it is undone."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from ensue import Saga, Step
from shop.commands import CreditRefused, ReleaseCredit, ReserveCredit
from shop.contracts import OrderOpened, OrderRejected
from shop.orders.model import Order, Status
from shop.orders.placing import PlaceOrder, create
from shop.orders.service import orders


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
    order_id, customer_id = new.order_id, new.customer_id
    await saga.local(create_order, new, undo=saga.local(reject_order, order_id, "not decided within an hour"))
    try:
        await saga.call(
            ReserveCredit(customer_id=customer_id, order_id=order_id, total=new.total),
            undo=ReleaseCredit(customer_id=customer_id, order_id=order_id),
        )
    except CreditRefused as refused:
        # Said here, since an undo knows nothing of the reason; that of create_order then finds it done.
        await saga.local(reject_order, order_id, refused.reason, undo=None)
        raise
    saga.pivot()
    await saga.local(open_order, order_id)
