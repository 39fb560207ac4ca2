"""The sequential model: reserve while it fits, release on cancellation."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from shop.demo.dataset import invoices
from shop.demo.model import CANCELLED, OPEN, REJECTED, Model, run_model
from shop.demo.plan import CancelOrder, CreateCustomer, Operation, PlaceOrder, Plan, Planned, make_plan

ANN = UUID(int=1)
FIRST, SECOND, THIRD = UUID(int=11), UUID(int=12), UUID(int=13)


def run(*operations: Operation) -> Model:
    given: list[Operation] = [CreateCustomer(ANN, "Ann", Decimal(100)), *operations]
    return run_model(Plan({ANN: [Planned(float(turn), each) for turn, each in enumerate(given)]}, 0, 0))


def order(order_id: UUID, total: str) -> PlaceOrder:
    return PlaceOrder(ANN, order_id, Decimal(total), datetime(2011, 1, 3, tzinfo=UTC))


def cancel(order_id: UUID) -> CancelOrder:
    return CancelOrder(ANN, order_id, "note")


def statuses(model: Model) -> list[str]:
    return [each.status for each in model.orders.values()]


def test_order_is_open_while_it_fits_to_the_penny_and_rejected_above() -> None:
    model = run(order(FIRST, "60.00"), order(SECOND, "40.01"), order(THIRD, "40.00"))
    assert statuses(model) == [OPEN, REJECTED, OPEN]
    assert model.customers[ANN].reservations == {FIRST: Decimal("60.00"), THIRD: Decimal("40.00")}
    assert model.customers[ANN].reserved == Decimal(100)


def test_cancelled_order_makes_room_for_the_next() -> None:
    model = run(order(FIRST, "60.00"), cancel(FIRST), order(SECOND, "100.00"))
    assert statuses(model) == [CANCELLED, OPEN]
    assert model.customers[ANN].reserved == Decimal(100)


def test_cancelling_a_rejected_order_is_refused_and_changes_nothing() -> None:
    model = run(order(FIRST, "100.01"), cancel(FIRST))
    assert (statuses(model), model.refused, model.customers[ANN].reserved) == ([REJECTED], 1, Decimal(0))


def test_year_ends_with_every_kind_of_order_and_no_limit_exceeded() -> None:
    model = run_model(make_plan(invoices(), seed=1))
    assert dict(model.by_status()) == {OPEN: 12_849, CANCELLED: 3_088, REJECTED: 2_595}
    assert model.refused == 248
    assert all(each.reserved <= each.credit_limit for each in model.customers.values())
