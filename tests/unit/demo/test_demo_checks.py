"""The invariants: each holds on sound data and fails on data damaged in the way it is there to see."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

import pytest

from shop.demo.checks import Invariant, check_answers, check_engine, check_moments, check_snapshot
from shop.demo.dataset import invoices
from shop.demo.model import Model, run_model
from shop.demo.plan import first_orders, make_plan
from shop.demo.snapshot import CustomerState, OrderState, Snapshot, Stream, Traffic

REASONS = {"REJECTED": "too much", "OPEN": "", "CANCELLED": ""}
MODEL = run_model(make_plan(first_orders(invoices(), 1_000), seed=1))


def sound(model: Model = MODEL) -> Snapshot:
    orders = {
        key: OrderState(each.customer_id, each.total, each.placed_at, each.status, REASONS[each.status])
        for key, each in model.orders.items()
    }
    customers = {
        key: CustomerState(each.name, each.credit_limit, each.reserved, dict(each.reservations))
        for key, each in model.customers.items()
    }
    view = {key: dataclasses.replace(each, reservations=None) for key, each in customers.items()}
    return Snapshot("databases", orders, customers, dict(orders), view)


def failing(invariants: list[Invariant]) -> set[str]:
    return {each.name for each in invariants if not each.holds}


def an_order(snapshot: Snapshot, status: str) -> UUID:
    return next(key for key, order in snapshot.orders.items() if order.status == status)


def a_customer(snapshot: Snapshot) -> UUID:
    """One with reservations."""
    return next(key for key, each in snapshot.customers.items() if each.reservations)


def lose_an_order(snapshot: Snapshot) -> None:
    del snapshot.orders[an_order(snapshot, "REJECTED")]


def make_an_order_twice(snapshot: Snapshot) -> None:
    snapshot.orders[UUID(int=1)] = snapshot.orders[an_order(snapshot, "REJECTED")]


def lose_a_customer(snapshot: Snapshot) -> None:
    del snapshot.customers[next(key for key, each in snapshot.customers.items() if not each.reservations)]


def leave_an_order_new(snapshot: Snapshot) -> None:
    key = an_order(snapshot, "REJECTED")
    snapshot.orders[key] = snapshot.view_orders[key] = snapshot.orders[key]._replace(status="NEW")


def forget_the_reason(snapshot: Snapshot) -> None:
    key = an_order(snapshot, "REJECTED")
    snapshot.orders[key] = snapshot.orders[key]._replace(reason="")


def exceed_a_limit(snapshot: Snapshot) -> None:
    key = a_customer(snapshot)
    snapshot.customers[key] = dataclasses.replace(snapshot.customers[key], credit_limit=Decimal(0))


def exceed_a_limit_in_reservations_only(snapshot: Snapshot) -> None:
    reservations = snapshot.customers[a_customer(snapshot)].reservations
    assert reservations
    reservations[next(iter(reservations))] += 1_000_000


def release_twice(snapshot: Snapshot) -> None:
    key = a_customer(snapshot)
    customer = snapshot.customers[key]
    assert customer.reservations
    _, amount = customer.reservations.popitem()
    snapshot.customers[key] = dataclasses.replace(customer, reserved=customer.reserved - amount)


def swap_reservations_of_two_orders(snapshot: Snapshot) -> None:
    reservations = snapshot.customers[a_customer(snapshot)].reservations
    assert reservations
    reservations[UUID(int=7)] = reservations.pop(next(iter(reservations)))


def view_misses_an_order(snapshot: Snapshot) -> None:
    del snapshot.view_orders[an_order(snapshot, "OPEN")]


def view_is_late_by_one_status(snapshot: Snapshot) -> None:
    key = an_order(snapshot, "CANCELLED")
    snapshot.view_orders[key] = snapshot.view_orders[key]._replace(status="OPEN")


def view_is_a_penny_off(snapshot: Snapshot) -> None:
    key = an_order(snapshot, "OPEN")
    order = snapshot.view_orders[key]
    snapshot.view_orders[key] = order._replace(total=order.total + Decimal("0.01"))


def view_has_another_reserved_amount(snapshot: Snapshot) -> None:
    key = a_customer(snapshot)
    snapshot.view_customers[key] = dataclasses.replace(snapshot.view_customers[key], reserved=Decimal(0))


def decide_wrongly_but_consistently(snapshot: Snapshot) -> None:
    """An order that fits is rejected, and all three services agree on it."""
    key = an_order(snapshot, "OPEN")
    order = snapshot.orders[key]
    snapshot.orders[key] = snapshot.view_orders[key] = order._replace(status="REJECTED", reason="why not")
    customer = snapshot.customers[order.customer_id]
    assert customer.reservations
    del customer.reservations[key]
    customer = dataclasses.replace(customer, reserved=customer.reserved - order.total)
    snapshot.customers[order.customer_id] = customer
    snapshot.view_customers[order.customer_id] = dataclasses.replace(customer, reservations=None)


STORED = "every order asked for is stored, and no other"
CUSTOMERS = "every customer asked for is stored, no other"
NEW = "no order is NEW"
REASON = "all REJECTED orders have a reason, and no other"
LIMIT = "a customer's reservations <= their limit"
RESERVED = "reservations = the customer's OPEN orders"
VIEW = "the view's orders = those of orders"
VIEW_CUSTOMERS = "the view's customers = those of customers"
ENDED = "each order ended as the model says"
AMOUNT = "each reserved amount is as the model says"


def test_sound_data_holds_and_every_invariant_compared_something() -> None:
    invariants = check_snapshot(sound(), MODEL)
    assert failing(invariants) == set()
    assert all(each.compared > 100 for each in invariants)
    assert {each.name for each in invariants} == {
        STORED, CUSTOMERS, NEW, REASON, LIMIT, RESERVED, VIEW, VIEW_CUSTOMERS, ENDED, AMOUNT
    }  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "seen_by"),
    [
        (lose_an_order, {STORED, VIEW, ENDED}),
        (make_an_order_twice, {STORED, VIEW, ENDED}),
        (lose_a_customer, {CUSTOMERS, VIEW_CUSTOMERS, AMOUNT}),
        (leave_an_order_new, {NEW, REASON, ENDED}),
        (forget_the_reason, {REASON, VIEW}),
        (exceed_a_limit, {LIMIT, VIEW_CUSTOMERS, AMOUNT}),
        (exceed_a_limit_in_reservations_only, {LIMIT, RESERVED}),
        (release_twice, {RESERVED, VIEW_CUSTOMERS, AMOUNT}),
        (swap_reservations_of_two_orders, {RESERVED}),
        (view_misses_an_order, {VIEW}),
        (view_is_late_by_one_status, {VIEW}),
        (view_is_a_penny_off, {VIEW}),
        (view_has_another_reserved_amount, {VIEW_CUSTOMERS}),
        (decide_wrongly_but_consistently, {ENDED, AMOUNT}),
    ],
)
def test_damaged_data_is_seen(damage: Callable[[Snapshot], None], seen_by: set[str]) -> None:
    snapshot = sound()
    damage(snapshot)
    found = [each for each in check_snapshot(snapshot, MODEL) if not each.holds]
    assert {each.name for each in found} == seen_by
    assert all(each.differences for each in found)


def test_without_visible_reservations_the_sums_are_compared() -> None:
    """As over HTTP, where a customer shows what is reserved but not for which orders."""
    snapshot = sound()
    for key, each in snapshot.customers.items():
        snapshot.customers[key] = dataclasses.replace(each, reservations=None)
    assert failing(check_snapshot(snapshot, MODEL)) == set()
    key = an_order(snapshot, "OPEN")
    snapshot.orders[key] = snapshot.view_orders[key] = snapshot.orders[key]._replace(status="CANCELLED", reason="")
    assert RESERVED in failing(check_snapshot(snapshot, MODEL))


def test_an_empty_system_holds_nothing() -> None:
    empty = Snapshot("HTTP", {}, {}, {}, {})
    assert failing(check_snapshot(empty, Model())) == {each.name for each in check_snapshot(sound(), MODEL)}


def test_differences_are_counted_all_and_shown_some() -> None:
    snapshot = sound()
    snapshot.view_orders.clear()
    (view,) = [each for each in check_snapshot(snapshot, MODEL) if each.name == VIEW]
    assert (view.differing, len(view.differences)) == (len(snapshot.orders), 5)
    assert "against nothing" in view.differences[0]


STREAM = Stream("customers", "orders/a", "orders", 3, head=10, watermark=10)
TRAFFIC = Traffic("customers", ("orders",), 20, 5, 2, 1, 1, 0, 0)


def test_books_of_the_engine_hold_when_every_event_was_applied_once() -> None:
    assert failing(check_engine([STREAM], [TRAFFIC], {"orders": 25, "other": 3})) == set()


@pytest.mark.parametrize(
    ("stream", "traffic", "published", "seen_by"),
    [
        (dataclasses.replace(STREAM, watermark=9), TRAFFIC, 25, "each subscriber is at each sender's"),
        (dataclasses.replace(STREAM, gap=True), TRAFFIC, 25, "each subscriber is at each sender's"),
        (STREAM, TRAFFIC, 26, "each event was applied exactly once"),
        (STREAM, TRAFFIC, 24, "each event was applied exactly once"),
        (STREAM, dataclasses.replace(TRAFFIC, dead_letters=1), 25, "no message is a dead"),
    ],
)
def test_lost_repeated_or_parked_events_are_seen(
    stream: Stream, traffic: Traffic, published: int, seen_by: str
) -> None:
    (name,) = failing(check_engine([stream], [traffic], {"orders": published}))
    assert name.startswith(seen_by)


def test_books_with_nothing_in_them_do_not_hold() -> None:
    assert len(failing(check_engine([], [], {}))) == 3


def test_number_of_refused_cancellations_must_be_the_models() -> None:
    assert check_answers(MODEL.refused, MODEL).holds
    assert not check_answers(MODEL.refused + 1, MODEL).holds


def test_limit_exceeded_at_one_moment_is_seen_and_so_is_not_having_looked() -> None:
    assert check_moments(3, []).holds
    assert not check_moments(3, ["customer x: reserved 2, limit 1"]).holds
    assert not check_moments(0, []).holds
