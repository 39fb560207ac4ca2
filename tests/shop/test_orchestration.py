"""What is special where an order is placed by orchestration; test_place_order has what is the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.shop.services import services
from tests.shop.shopfront import Shop

from ensue import UsageError
from ensue.testing import SagaRun, saga
from shop.commands import CreditRefused, ReleaseCredit, ReserveCredit
from shop.contracts import CreditReservationFailed, CreditReserved, OrderCreated
from shop.settings import placement as placement_of

ORDER, CUSTOMER = UUID(int=1), UUID(int=2)
RESERVED = CreditReserved(customer_id=CUSTOMER, order_id=ORDER, amount=Decimal("5.00"))

by_orchestration = pytest.mark.parametrize("placement", ["orchestration"], indirect=True)


def code() -> ModuleType:
    found: ModuleType = services("orchestration").modules["shop.orders.place_order"]
    return found


def placing() -> SagaRun:
    new = code().PlaceOrder(ORDER, CUSTOMER, Decimal("5.00"), datetime(2011, 1, 1, tzinfo=UTC))
    run = saga(code().place_order, new)
    run.expect_local(code().create_order)
    return run


def test_an_order_is_opened_once_its_credit_is_reserved() -> None:
    run = placing()
    run.expect_call(ReserveCredit, total=Decimal("5.00")).replies(RESERVED)
    run.expect_local(code().open_order, order_id=ORDER)
    run.expect_end("COMPLETED")


def test_refused_credit_rejects_the_order_with_the_reason_and_releases_nothing() -> None:
    run = placing()
    run.expect_call(ReserveCredit).fails(CreditRefused(reason="too much"))
    run.expect_local(code().reject_order, order_id=ORDER, reason="too much")
    run.expect_undo(code().reject_order)
    run.expect_end("UNDONE")


def test_an_order_that_nobody_decides_is_rejected_in_time() -> None:
    run = placing()
    run.expect_call(ReserveCredit)
    run.advance(timedelta(hours=1))
    run.expect_undo(ReleaseCredit)
    run.expect_undo(code().reject_order, reason="not decided within an hour")
    run.expect_end("UNDONE")


@by_orchestration
async def test_credit_is_reserved_once_and_the_same_events_tell_of_it(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    opened, refused = await shop.order(customer_id, "7.00"), await shop.order(customer_id, "7.00")
    assert {each.order_id for each in await shop.world.published(CreditReserved)} == {opened}
    assert {each.order_id for each in await shop.world.published(CreditReservationFailed)} == {refused}
    assert {each.orchestrated for each in await shop.world.published(OrderCreated)} == {True}
    assert (await shop.get_customer(customer_id))["reserved"] == "7.00"
    for each in (shop.services.orders, shop.services.customers):
        assert await shop.world.dead_letters(each.service) == []


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
