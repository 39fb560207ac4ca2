"""The shop's rules, without a database: amounts, moments, an order's states, a customer's credit, the view's fold."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ensue.event import event_type
from shop.contracts import (
    CreditReleased,
    CreditReserved,
    CustomerCreated,
    OrderCancelled,
    OrderCreated,
    OrderOpened,
    OrderRejected,
)
from shop.customers.model import Customer
from shop.money import POUNDS_MAX, Amount, Limit, from_pence, to_pence
from shop.order_history import order_history
from shop.order_history.model import RANK, HistoryOrder
from shop.orders.model import NEXT, CannotHappen, Order, Status
from shop.payments import model as payment
from shop.times import to_text

amount: TypeAdapter[Decimal] = TypeAdapter(Amount)
limit: TypeAdapter[Decimal] = TypeAdapter(Limit)
pence = st.integers(1, 100 * POUNDS_MAX)


@given(pence)
def test_pence_and_back_is_exact(number: int) -> None:
    assert to_pence(from_pence(number)) == number
    assert from_pence(number).as_tuple().exponent == -2


@given(pence)
def test_amount_is_the_same_as_text_and_as_number(number: int) -> None:
    expected = from_pence(number)
    assert amount.validate_python(str(expected)) == expected
    assert amount.validate_python(float(expected)) == expected
    assert str(amount.validate_python(float(expected))) == str(expected)


@given(st.floats() | st.integers() | st.text() | st.decimals(allow_nan=True) | st.none() | st.booleans())
def test_amount_that_is_taken_is_whole_pence_within_the_bounds(value: object) -> None:
    for kind, least in ((amount, Decimal("0.01")), (limit, Decimal(0))):
        try:
            taken = kind.validate_python(value)
        except ValidationError:
            continue
        assert least <= taken <= POUNDS_MAX
        assert to_pence(taken) == taken * 100
        assert not isinstance(value, bool)
        assert taken == Decimal(str(value))


def test_fraction_of_a_penny_is_never_rounded_away() -> None:
    with pytest.raises(ValueError, match="whole number of pence"):
        to_pence(Decimal("1.001"))


def test_moments_sort_as_text_as_they_do_in_time() -> None:
    start = datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
    moments = [start, start + timedelta(microseconds=1), start + timedelta(seconds=1), start + timedelta(days=40)]
    assert sorted(moments) == sorted(moments, key=to_text)


@pytest.mark.parametrize(("status", "what"), list(itertools.product(Status, ("open", "reject", "cancel"))))
def test_order_moves_as_the_table_says_and_no_other_way(status: Status, what: str) -> None:
    order = Order(order_id=uuid4(), customer_id=uuid4(), total=Decimal(1), placed_at=datetime.now(UTC), status=status)
    move = {"open": order.open, "reject": lambda: order.reject("why"), "cancel": order.cancel}[what]
    if (status, what) in NEXT:
        move()
        assert order.status == NEXT[status, what]
        assert order.reason == ("why" if what == "reject" else "")
    else:
        with pytest.raises(CannotHappen, match=f"is {status}"):
            move()
        assert order.status == status


@pytest.mark.parametrize(
    ("status", "what"),
    list(itertools.product(payment.Status, ("authorise", "refuse", "void", "capture", "refund"))),
)
def test_payment_moves_as_the_table_says_and_no_other_way(status: payment.Status, what: str) -> None:
    found = payment.Payment(order_id=uuid4(), amount=Decimal(1), status=status)
    if (status, what) in payment.NEXT:
        found.move(what)
        assert found.status == payment.NEXT[status, what]
    else:
        with pytest.raises(payment.CannotHappen, match=f"is {status}; to {what} it"):
            found.move(what)
        assert found.status == status


@given(st.lists(st.tuples(st.booleans(), pence), max_size=30), pence)
def test_reserved_is_the_sum_of_what_was_taken_and_never_more_than_the_limit(
    wishes: list[tuple[bool, int]], credit_limit: int
) -> None:
    customer = Customer(customer_id=uuid4(), name="Ann", credit_limit=from_pence(credit_limit))
    taken: list[Decimal] = []
    for release, number in wishes:
        if release and taken:
            customer.release(taken.pop())
        elif customer.reserve(from_pence(number)):
            taken.append(from_pence(number))
        else:
            assert sum(taken) + from_pence(number) > customer.credit_limit
        assert customer.reserved == sum(taken)
        assert 0 <= customer.reserved <= customer.credit_limit
        assert customer.available == customer.credit_limit - customer.reserved


@given(st.lists(st.sampled_from(sorted(RANK))))
def test_status_in_the_view_never_goes_back(seen: list[str]) -> None:
    order = HistoryOrder(uuid4(), uuid4(), Decimal(1), datetime.now(UTC))
    for status in seen:
        before = RANK[order.status]
        order.advance(status)
        assert RANK[order.status] >= before
    assert RANK[order.status] == max([RANK[status] for status in seen], default=0)


def folded(events: list[Any]) -> dict[tuple[type, UUID], Any]:
    """What the view's handlers make of events that arrive in this order: no database, no copy of what they do."""
    rows: dict[tuple[type, UUID], Any] = {}
    for event in events:
        for handler in order_history.handlers[event_type(type(event)).type]:
            assert handler.entity is not None
            key = (handler.entity, handler.id_of()(event))
            found = rows.get(key)
            assert found is not None or handler.optional, f"{handler.name} is given nothing: a letter"
            made = handler.caller()(found, event, None)  # type: ignore[arg-type]  # none of them asks for the step
            rows[key] = made or found
    return rows


def test_every_order_in_which_the_view_may_meet_the_shops_events_gives_the_same_rows() -> None:
    """All interleavings of the two topics; within one a customer's events come as they were published."""
    customer, first, second = uuid4(), uuid4(), uuid4()
    placed = datetime(2010, 12, 1, tzinfo=UTC)
    of_orders = [
        OrderCreated(order_id=first, customer_id=customer, total=Decimal("30.00"), placed_at=placed),
        OrderCreated(order_id=second, customer_id=customer, total=Decimal("90.00"), placed_at=placed),
        OrderOpened(order_id=first, customer_id=customer),
        OrderRejected(order_id=second, customer_id=customer, reason="credit"),
        OrderCancelled(order_id=first, customer_id=customer),
    ]
    of_customers = [
        CustomerCreated(customer_id=customer, name="Ann", credit_limit=Decimal("100.00")),
        CreditReserved(customer_id=customer, order_id=first, amount=Decimal("30.00")),
        CreditReleased(customer_id=customer, order_id=first, amount=Decimal("30.00")),
    ]
    count = len(of_orders) + len(of_customers)
    found = []
    for places in itertools.combinations(range(count), len(of_customers)):
        orders, customers = iter(of_orders), iter(of_customers)
        found.append(folded([next(customers if place in places else orders) for place in range(count)]))
    assert len(found) == 56
    assert all(each == found[0] for each in found)
    assert {each.status for (kind, _), each in found[0].items() if kind is HistoryOrder} == {"CANCELLED", "REJECTED"}
