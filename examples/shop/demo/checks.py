"""The invariants, as pure comparisons of a snapshot with itself and with the sequential model.

Each says what was compared, how many, and the first differences; none may pass on having compared nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from shop.demo.model import OPEN, REJECTED, Model
from shop.demo.snapshot import CustomerState, OrderState, Snapshot, Stream, Traffic

DIFFERENCES_SHOWN = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Invariant:
    """differing: how many of `compared` do not hold; differences: the first of them in words."""

    name: str
    seen_through: str
    compared: int
    differing: int
    differences: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.differing == 0


def check_snapshot(snapshot: Snapshot, model: Model) -> list[Invariant]:
    """Check the invariants of a quiet system in what was seen one way (HTTP or databases)."""
    seen, invariants = snapshot.seen_through, []

    def add(name: str, compared: int, differences: Iterator[str]) -> None:
        invariants.append(invariant(name, seen, compared, differences))

    orders, customers = snapshot.orders, snapshot.customers
    add("every order asked for is stored, and no other", len(model.orders), _ids(model.orders, orders))
    add("every customer asked for is stored, no other", len(model.customers), _ids(model.customers, customers))
    add("no order is NEW", len(orders), _new(orders))
    add("all REJECTED orders have a reason, and no other", len(orders), _without_reason(orders))
    add("a customer's reservations <= their limit", len(customers), _over_limit(customers))
    add("reservations = the customer's OPEN orders", len(customers), _unlike_open_orders(orders, customers))
    add("the view's orders = those of orders", len(orders), unequal(orders, snapshot.view_orders))
    add("the view's customers = those of customers", len(customers), _unequal_customers(snapshot))
    add("each order ended as the model says", len(model.orders), _unlike_model(model, orders))
    add("each reserved amount is as the model says", len(model.customers), _unlike_amount(model, customers))
    return invariants


def check_engine(
    streams: Sequence[Stream], traffic: Sequence[Traffic], published: Mapping[str, int], seen_through: str = "databases"
) -> list[Invariant]:
    """Check the engine's books. published: events by topic, all sources together."""
    applied = [(each, sum(published.get(topic, 0) for topic in each.topics)) for each in traffic]
    return [
        invariant("each subscriber is at each sender's last record", seen_through, len(streams), (
            f"{each.subscriber} of {each.source} {each.topic}/{each.partition}: at {each.watermark}, sent {each.head}"
            + (" (gap open)" if each.gap else "")
            for each in streams if each.watermark != each.head or each.gap
        )),
        invariant("each event was applied exactly once", seen_through, sum(n for _, n in applied), (
            f"{each.subscriber}: applied {each.applied} + unknown {each.unknown}, published {expected}"
            for each, expected in applied if each.applied + each.unknown != expected
        )),
        invariant("no message is a dead letter", seen_through, sum(each.applied for each in traffic), (
            f"{each.subscriber}: {each.dead_letters} dead letters" for each in traffic if each.dead_letters
        )),
    ]  # fmt: skip


def compare(name: str, seen_through: str, left: Mapping[UUID, Any], right: Mapping[UUID, Any]) -> Invariant:
    """Check that two ways of asking say the same of each id."""
    return invariant(name, seen_through, len(left), unequal(left, right))


def check_answers(refused: int, model: Model) -> Invariant:
    """Check what the services answered: a cancellation is refused exactly when its order was rejected before."""
    text = f"refused {refused}, the model says {model.refused}"
    differences = iter([text] if refused != model.refused else [])
    return invariant("refused cancellations as the model says", "HTTP", 1, differences)


def check_moments(moments: int, over_limit: Sequence[str]) -> Invariant:
    """Check what was seen while the run went on: `moments` looks into the customers database."""
    return invariant("at every moment: reservations <= limit", "databases", moments, iter(over_limit))


def check_losses(losses: int, traffic: Sequence[Traffic]) -> Invariant:
    """Check that what the broker lost was noticed, and that nothing of it is still missing."""
    seen, healed = sum(each.gaps_seen for each in traffic), sum(each.gaps_healed for each in traffic)
    differences = [] if seen else [f"the broker lost data {losses} times, and no subscriber saw a gap"]
    differences += [f"{seen - healed} gaps are open"] if seen != healed else []
    return invariant("what the broker lost was seen and healed", "databases", losses, iter(differences))


def invariant(name: str, seen_through: str, compared: int, differences: Iterator[str]) -> Invariant:
    """One that compared so many things and found these differences; nothing compared is a difference too."""
    found = list(differences)
    if compared == 0:
        found.append("nothing was there to compare")
    return Invariant(name, seen_through, compared, len(found), tuple(found[:DIFFERENCES_SHOWN]))


def _ids(expected: Iterable[UUID], found: Iterable[UUID]) -> Iterator[str]:
    expected, found = set(expected), set(found)
    yield from (f"{each} is missing" for each in sorted(expected - found))
    yield from (f"{each} was never asked for" for each in sorted(found - expected))


def _new(orders: Mapping[UUID, OrderState]) -> Iterator[str]:
    return (f"order {key} is NEW" for key, order in orders.items() if order.status == "NEW")


def _without_reason(orders: Mapping[UUID, OrderState]) -> Iterator[str]:
    for key, order in orders.items():
        if bool(order.reason) != (order.status == REJECTED):
            yield f"order {key} is {order.status}, reason {order.reason!r}"


def _over_limit(customers: Mapping[UUID, CustomerState]) -> Iterator[str]:
    for key, customer in customers.items():
        amounts = [customer.reserved]
        if customer.reservations is not None:
            amounts.append(_sum(customer.reservations.values()))
        if max(amounts) > customer.credit_limit:
            yield f"customer {key}: reserved {max(amounts)}, limit {customer.credit_limit}"


def _unlike_open_orders(orders: Mapping[UUID, OrderState], customers: Mapping[UUID, CustomerState]) -> Iterator[str]:
    """Compare order by order where the reservations can be seen, else the sum. Orders of nobody count too."""
    expected: dict[UUID, dict[UUID, Decimal]] = {key: {} for key in customers}
    for order_id, order in orders.items():
        if order.status == OPEN:
            expected.setdefault(order.customer_id, {})[order_id] = order.total
    for key, wanted in expected.items():
        customer = customers.get(key)
        if customer is None:
            yield f"customer {key} does not exist but has {len(wanted)} OPEN orders"
        elif customer.reserved != _sum(wanted.values()):
            yield f"customer {key}: reserved {customer.reserved}, OPEN orders {_sum(wanted.values())}"
        elif customer.reservations is not None and customer.reservations != wanted:
            unlike = sorted(str(order_id) for order_id, _ in customer.reservations.items() ^ wanted.items())
            yield f"customer {key}: reservations and OPEN orders differ in {', '.join(unlike[:3])}"


def unequal(left: Mapping[UUID, Any], right: Mapping[UUID, Any]) -> Iterator[str]:
    """In words, for each id of which they do not say the same."""
    for key in left.keys() | right.keys():
        if left.get(key) != right.get(key):
            yield f"{key}: {_show(left.get(key))} against {_show(right.get(key))}"


def _unequal_customers(snapshot: Snapshot) -> Iterator[str]:
    return unequal(
        {key: dataclasses.replace(each, reservations=None) for key, each in snapshot.customers.items()},
        {key: dataclasses.replace(each, reservations=None) for key, each in snapshot.view_customers.items()},
    )


def _unlike_model(model: Model, orders: Mapping[UUID, OrderState]) -> Iterator[str]:
    return unequal(
        {key: (each.customer_id, each.total, each.placed_at, each.status) for key, each in model.orders.items()},
        {key: (each.customer_id, each.total, each.placed_at, each.status) for key, each in orders.items()},
    )


def _unlike_amount(model: Model, customers: Mapping[UUID, CustomerState]) -> Iterator[str]:
    return unequal(
        {key: (each.name, each.credit_limit, each.reserved) for key, each in model.customers.items()},
        {key: (each.name, each.credit_limit, each.reserved) for key, each in customers.items()},
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))


def _show(state: Any) -> str:
    if state is None:
        return "nothing"
    values = dataclasses.astuple(state) if dataclasses.is_dataclass(state) and not isinstance(state, type) else state
    return " ".join(str(value) for value in values if value is not None)
