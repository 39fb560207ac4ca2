"""The plan: what the rules make of invoices and credit notes."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from shop.demo.dataset import Invoice, invoices
from shop.demo.plan import (
    CancelOrder,
    CreateCustomer,
    PlaceOrder,
    Plan,
    credit_limit,
    customer_id,
    first_orders,
    make_plan,
    order_id,
)

START = datetime(2011, 1, 3, 9, 0)


def rows(*texts: str) -> list[Invoice]:
    """`invoice customer total`, a minute apart."""
    found = []
    for minute, text in enumerate(texts):
        number, customer, total = text.split()
        found.append(Invoice(number, customer, START + timedelta(minutes=minute), "France", Decimal(total)))
    return found


def operations(plan: Plan, customer: str) -> list[object]:
    return [each.operation for each in plan.by_customer[customer_id(customer)]]


@pytest.fixture(scope="module")
def year() -> list[Invoice]:
    return invoices()


def test_the_year_is_shipped_whole_and_in_order(year: list[Invoice]) -> None:
    assert (len(year), len({each.customer for each in year})) == (22_190, 4_372)
    assert sum(each.is_credit_note for each in year) == 3_654
    assert all(earlier.at <= later.at for earlier, later in pairwise(year))


def test_the_years_plan_leaves_out_only_what_the_rules_say(year: list[Invoice]) -> None:
    plan = make_plan(year, seed=1)
    assert (plan.customers, plan.orders, plan.zero_invoices) == (4_372, 18_532, 4)
    assert plan.cancellations + plan.nothing_to_cancel == 3_654
    assert plan.operations == plan.customers + plan.orders + plan.cancellations
    ids = Counter(
        each.operation.order_id
        for planned in plan.by_customer.values()
        for each in planned
        if isinstance(each.operation, CancelOrder)
    )
    assert ids.most_common(1)[0][1] == 1, "an order is cancelled at most once"


def test_customer_is_created_before_anything_else_they_do() -> None:
    plan = make_plan(rows("1 7 10.00", "2 7 20.00", "C3 8 -5.00"), seed=0)
    assert operations(plan, "7")[0] == CreateCustomer(customer_id("7"), "Customer 7 (France)", Decimal(100))
    assert operations(plan, "8") == [CreateCustomer(customer_id("8"), "Customer 8 (France)", Decimal(100))]


def test_credit_note_cancels_the_latest_order_that_none_named_before() -> None:
    plan = make_plan(
        rows("1 7 10.00", "2 7 20.00", "C3 7 -20.00", "C4 7 -1.00", "C5 7 -1.00", "6 7 5.00", "C7 7 0.00"), seed=0
    )
    named = [each.order_id for each in operations(plan, "7") if isinstance(each, CancelOrder)]
    assert named == [order_id("2"), order_id("1"), order_id("6")]
    assert plan.nothing_to_cancel == 1


def test_credit_note_does_not_cancel_an_order_of_another_customer() -> None:
    plan = make_plan(rows("1 7 10.00", "C2 8 -10.00"), seed=0)
    assert (plan.cancellations, plan.nothing_to_cancel) == (0, 1)


def test_zero_invoice_is_counted_and_is_no_order() -> None:
    plan = make_plan(rows("1 7 0.00", "C2 7 -1.00"), seed=0)
    assert (plan.orders, plan.zero_invoices, plan.nothing_to_cancel) == (0, 1, 1)


@pytest.mark.parametrize(
    ("totals", "limit"),
    [
        ([], "100"),
        (["1.00"], "100"),
        (["500.01"], "501"),  # one order is never above it
        (["139.12", "122.20"], "210"),  # 80 % of 261.32 is 209.056
        (["100.00", "900.00"], "900"),
    ],
)
def test_credit_limit_is_whole_pounds_enough_for_each_order_but_not_for_all(totals: list[str], limit: str) -> None:
    assert credit_limit([Decimal(each) for each in totals]) == Decimal(limit)


def test_first_orders_ends_before_the_next_order_and_keeps_the_credit_notes_up_to_then() -> None:
    given = rows("1 7 10.00", "C2 7 -10.00", "3 7 0.00", "4 7 1.00", "C5 7 -1.00", "6 7 1.00", "C7 7 -1.00")
    assert [each.number for each in first_orders(given, 2)] == ["1", "C2", "3", "4", "C5"]
    assert first_orders(given, 0) == []
    assert first_orders(given, None) == given


def test_seed_moves_customers_against_each_other_and_changes_nothing_else(year: list[Invoice]) -> None:
    given = first_orders(year, 500)
    one, same, other = make_plan(given, seed=1), make_plan(given, seed=1), make_plan(given, seed=2)
    assert one == same
    assert one != other
    for customer, planned in one.by_customer.items():
        assert [each.operation for each in planned] == [each.operation for each in other.by_customer[customer]]


def test_turns_of_one_customer_never_go_back(year: list[Invoice]) -> None:
    for planned in make_plan(year, seed=3).by_customer.values():
        assert all(earlier.turn <= later.turn for earlier, later in pairwise(planned))


def test_ids_are_the_same_in_every_run() -> None:
    assert str(order_id("536365")) == "a018968b-0abb-52f6-b35a-33919c582ce7"
    assert str(customer_id("17850")) == "4d428baa-91e8-5887-8a87-22f3fe7863f5"
    assert isinstance(operations(make_plan(rows("536365 17850 139.12"), seed=9), "17850")[1], PlaceOrder)
