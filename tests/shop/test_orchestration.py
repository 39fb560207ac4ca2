"""What is special where an order is placed by orchestration; test_place_order has what is the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from tests.shop.services import services
from tests.shop.shopfront import Shop

from ensue import UsageError
from ensue.event import event_type
from ensue.tables import SAGAS
from ensue.testing import SagaRun, saga
from shop.commands import (
    Authorise,
    Authorised,
    Capture,
    CardRefused,
    CreditRefused,
    PaymentKnown,
    ReleaseCredit,
    ReserveCredit,
    Void,
)
from shop.contracts import CreditReleased, CreditReservationFailed, CreditReserved, OrderCreated
from shop.settings import placement as placement_of

ORDER, CUSTOMER = UUID(int=1), UUID(int=2)
RESERVED = CreditReserved(customer_id=CUSTOMER, order_id=ORDER, amount=Decimal("5.00"))
HELD = Authorised(ORDER, "held-1")

by_orchestration = pytest.mark.parametrize("placement", ["orchestration"], indirect=True)


def module(name: str) -> ModuleType:
    found: ModuleType = services("orchestration").modules[name]
    return found


def code() -> ModuleType:
    return module("shop.orders.place_order")


def paying() -> ModuleType:
    return module("shop.payments.handlers")


def placing() -> SagaRun:
    new = code().PlaceOrder(ORDER, CUSTOMER, Decimal("5.00"), datetime(2011, 1, 1, tzinfo=UTC))
    run = saga(code().place_order, new)
    run.expect_local(code().create_order)
    return run


def test_an_order_is_opened_once_its_credit_is_reserved_and_it_is_paid() -> None:
    run = placing()
    run.expect_call(ReserveCredit, total=Decimal("5.00")).replies(RESERVED)
    run.expect_call(Authorise, amount=Decimal("5.00")).replies(HELD)
    run.expect_call(Capture, amount=Decimal("5.00")).replies()
    run.expect_local(code().open_order, order_id=ORDER)
    run.expect_end("COMPLETED")


def test_refused_credit_rejects_the_order_with_the_reason_and_releases_nothing() -> None:
    run = placing()
    run.expect_call(ReserveCredit).fails(CreditRefused(reason="too much"))
    run.expect_local(code().reject_order, order_id=ORDER, reason="too much")
    run.expect_undo(code().reject_order)
    run.expect_end("UNDONE")


def test_a_refused_card_rejects_the_order_and_releases_its_credit() -> None:
    run = placing()
    run.expect_call(ReserveCredit).replies(RESERVED)
    run.expect_call(Authorise).fails(CardRefused(reason="no money"))
    run.expect_local(code().reject_order, order_id=ORDER, reason="no money")
    run.expect_undo(ReleaseCredit, order_id=ORDER)
    run.expect_undo(code().reject_order)
    run.expect_end("UNDONE")


def test_an_order_that_is_not_paid_in_time_is_rejected_and_its_payment_voided() -> None:
    run = placing()
    run.expect_call(ReserveCredit).replies(RESERVED)
    run.expect_call(Authorise)
    run.advance(timedelta(minutes=15))
    run.expect_local(code().reject_order, order_id=ORDER, reason="not paid within 15 minutes")
    run.expect_undo(Void, order_id=ORDER)
    run.expect_undo(ReleaseCredit, order_id=ORDER)
    run.expect_undo(code().reject_order)
    run.expect_end("UNDONE")


def test_what_was_voided_while_the_provider_was_asked_is_let_go() -> None:
    run = saga(paying().authorise, Authorise(order_id=ORDER, customer_id=CUSTOMER, amount=Decimal("5.00")))
    run.expect_local(paying().begin)
    run.expect_outside(paying().hold, amount=Decimal("5.00")).gives("held-1")
    run.expect_local(paying().note_held).fails(PaymentKnown(status="VOIDED"))
    run.expect_undo(paying().let_go, order_id=ORDER)
    run.expect_undo(paying().note_given_up, order_id=ORDER)
    run.expect_end("UNDONE")


def test_a_payment_that_is_voided_before_it_begins_never_does() -> None:
    tombstone, held = paying().note_void(None, ORDER)
    assert (tombstone.status, held) == ("VOIDED", False)
    with pytest.raises(PaymentKnown, match="VOIDED"):
        paying().begin(tombstone, ORDER, Decimal("5.00"))


@pytest.mark.parametrize(
    ("status", "voided", "held"),
    [("ASKED", "VOIDED", False), ("AUTHORISED", "VOIDED", True), ("REFUSED", "REFUSED", False),
     ("VOIDED", "VOIDED", False)],
)  # fmt: skip
def test_a_void_lets_go_what_is_held_and_nothing_else(status: str, voided: str, held: bool) -> None:
    model = module("shop.payments.model")
    payment = model.Payment(order_id=ORDER, amount=Decimal("5.00"), status=model.Status(status))
    assert paying().note_void(payment, ORDER) is held
    assert payment.status == voided


def test_what_was_taken_is_not_voided() -> None:
    model = module("shop.payments.model")
    payment = model.Payment(order_id=ORDER, amount=Decimal("5.00"), status=model.Status.CAPTURED)
    with pytest.raises(model.CannotHappen, match="is CAPTURED; to void it, it must be ASKED, AUTHORISED"):
        paying().note_void(payment, ORDER)


def test_an_order_that_nobody_decides_is_rejected_in_time() -> None:
    run = placing()
    run.expect_call(ReserveCredit)
    run.advance(timedelta(hours=1))
    run.expect_undo(ReleaseCredit)
    run.expect_undo(code().reject_order, reason="given up before it was decided")
    run.expect_end("UNDONE")


@by_orchestration
async def test_credit_is_reserved_once_and_the_same_events_tell_of_it(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    opened, refused = await shop.order(customer_id, "7.00"), await shop.order(customer_id, "7.00")
    assert {each.order_id for each in await shop.world.published(CreditReserved)} == {opened}
    assert {each.order_id for each in await shop.world.published(CreditReservationFailed)} == {refused}
    assert {each.orchestrated for each in await shop.world.published(OrderCreated)} == {True}
    assert (await shop.get_customer(customer_id))["reserved"] == "7.00"
    assert await statuses(shop) == {opened: "CAPTURED"}
    assert done(shop) == {("authorisations", opened): 700, ("captures", opened): 700}
    await no_trouble(shop)


@by_orchestration
async def test_a_cancelled_order_is_refunded_once(shop: Shop) -> None:
    order_id = await shop.order(await shop.new_customer("10.00"), "7.00")
    for _ in range(2):
        assert (await shop.orders.post(f"/orders/{order_id}/cancel")).status_code == 202
        await shop.world.settle()
    assert await statuses(shop) == {order_id: "REFUNDED"}
    assert done(shop)["refunds", order_id] == 700
    assert len(await shop.world.published(CreditReleased)) == 1
    await no_trouble(shop)


@by_orchestration
async def test_what_a_cancelled_order_held_is_free_before_the_next_order_asks_for_it(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    order_id = await shop.order(customer_id, "7.00")
    await shop.orders.post(f"/orders/{order_id}/cancel")
    following = await shop.order(customer_id, "7.00")
    assert (await shop.get_order(following))["status"] == "OPEN"
    asked = [each.type.split(".")[2] for each in await shop.world.messages("customers.commands")]
    assert asked == ["ReserveCredit", "ReleaseCredit", "ReserveCredit"]
    assert len(await shop.world.published(CreditReleased)) == 1


@by_orchestration
async def test_a_refused_card_ends_as_a_rejected_order(shop: Shop) -> None:
    customer_id = await shop.new_customer("10000.00")
    order_id = await shop.order(customer_id, "5000.01")
    found = await shop.get_order(order_id)
    assert (found["status"], found["reason"]) == ("REJECTED", "the card is good for 5000 pounds at once")
    assert (await shop.get_customer(customer_id))["reserved"] == "0.00"
    assert await statuses(shop) == {order_id: "REFUSED"}
    await no_trouble(shop)


@by_orchestration
async def test_an_order_that_cannot_be_paid_is_given_up_and_nothing_stays_held(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    shop.provider.trouble["away"] = 1.0
    order_id = await shop.order(customer_id, "7.00")
    assert (await shop.get_order(order_id))["status"] == "NEW"
    await shop.world.advance(minutes=16)
    found = await shop.get_order(order_id)
    assert (found["status"], found["reason"]) == ("REJECTED", "not paid within 15 minutes")
    assert (await shop.get_customer(customer_id))["reserved"] == "0.00"
    shop.provider.trouble.clear()
    await shop.world.advance(hours=1)
    assert await statuses(shop) == {order_id: "VOIDED"}
    assert done(shop) == {("authorisations", order_id): 700, ("voids", order_id): 700}
    await no_trouble(shop)


@by_orchestration
async def test_a_provider_that_did_it_and_did_not_say_so_does_it_once(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    shop.provider.trouble["no answer"] = 1.0
    order_id = await shop.order(customer_id, "7.00")
    shop.provider.trouble.clear()
    await shop.world.advance(seconds=5)
    assert (await shop.get_order(order_id))["status"] == "OPEN"
    [authorised] = [each for each in shop.provider.book.entries() if each["kind"] == "authorisations"]
    assert authorised["asked"] == 2
    await no_trouble(shop)


async def statuses(shop: Shop) -> dict[UUID, str]:
    payment = module("shop.payments.model").Payment
    async with shop.services.payments.service.query() as session:
        return {each.order_id: each.status.value for each in await session.scalars(select(payment))}


def done(shop: Shop) -> dict[tuple[str, UUID], int]:
    """Pence by kind and order, in the provider's own book; each is there once."""
    found = [each for each in shop.provider.book.entries() if each["status"] == 200]
    by_order = {(each["kind"], UUID(each["payment"])): each["pence"] for each in found}
    assert len(by_order) == len(found)
    return by_order


async def no_trouble(shop: Shop) -> None:
    for each in (shop.services.orders, shop.services.customers, shop.services.payments):
        assert await shop.world.dead_letters(each.service) == []
        books = shop.world.runtimes[each.service.name].store.rows()
        assert await books.find(SAGAS, SAGAS.lookups[0], ("PARKED",), limit=9) == []


def test_by_choreography_an_order_is_published_as_ever() -> None:
    event = OrderCreated(
        order_id=ORDER, customer_id=CUSTOMER, total=Decimal(5), placed_at=datetime(2011, 1, 1, tzinfo=UTC)
    )
    assert b"orchestrated" not in event_type(OrderCreated).write(event)


@pytest.mark.parametrize("placement", ["choreography"], indirect=True)
async def test_an_order_placed_the_other_way_is_left_to_its_saga(shop: Shop) -> None:
    """As after a change of the setting, with orders on their way."""
    customer_id = await shop.new_customer("10.00")
    order_id, placed_at = uuid4(), datetime(2011, 1, 1, tzinfo=UTC)
    order = shop.services.modules["shop.orders.model"].Order
    async with shop.services.orders.service.step() as step:
        values: dict[str, Any] = {
            "order_id": order_id,
            "customer_id": customer_id,
            "total": Decimal(1),
            "placed_at": placed_at,
        }
        step.session.add(order(**values, orchestrated=True))
        step.publish(OrderCreated(**values, orchestrated=True))
    await shop.world.settle()
    assert (await shop.get_customer(customer_id))["reserved"] == "0.00"
    async with shop.services.customers.service.step() as step:
        step.publish(CreditReserved(customer_id=customer_id, order_id=order_id, amount=Decimal(1)))
    await shop.world.settle()
    assert (await shop.get_order(order_id))["status"] == "NEW"


def test_a_placement_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="SHOP_PLACEMENT is 'opera', expected choreography or orchestration"):
        placement_of({"SHOP_PLACEMENT": "opera"})
