"""A transaction of the shop, looked at from outside while it is under way: on SQLite files, and on real servers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.unit.cli.harness import Ended, applied, books_of, work_until

from ensue.origin import Origin, coming_from
from shop.contracts import CustomerCreated, OrderCreated
from shop.customers import customers
from shop.customers.model import Customer
from shop.order_history import order_history
from shop.orders import orders
from shop.orders.model import Order, Status

Command = Callable[..., Ended]
SHOP = ("shop.orders:orders", "shop.customers:customers", "shop.order_history:order_history")
FLOW = "order-4711"


@pytest.fixture(params=["sqlite", "postgres-nats"])
def stack(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shop's databases and its log, empty."""
    if request.param == "postgres-nats":
        postgres, nats = request.getfixturevalue("postgres_server"), request.getfixturevalue("nats_server")
        monkeypatch.setenv("ENSUE_BROKER", f"{nats.url()}?prefix=flow{secrets.token_hex(6)}")
        for service in (orders, customers, order_history):
            postgres.drop(f"flow_{service.name}")
            monkeypatch.setenv(f"ENSUE_{service.name.upper()}_DATABASE", postgres.url(f"flow_{service.name}"))
    return str(request.param)


def place_order(status: Status = Status.NEW) -> UUID:
    """By a customer with credit; in a flow of its own. Nothing is sent."""
    customer_id, order_id = uuid4(), uuid4()

    async def place() -> None:
        async with customers.running(work=False), customers.step() as step:
            step.session.add(Customer(customer_id=customer_id, name="Ann Onymous", credit_limit=Decimal("100.00")))
            step.publish(CustomerCreated(customer_id=customer_id, name="Ann Onymous", credit_limit=Decimal("100.00")))
        with coming_from(Origin(correlation_id=FLOW)):
            async with orders.running(work=False), orders.step() as step:
                placed, total = datetime.now(UTC), Decimal("47.11")
                step.session.add(
                    Order(order_id=order_id, customer_id=customer_id, total=total, placed_at=placed, status=status)
                )
                step.publish(OrderCreated(order_id=order_id, customer_id=customer_id, total=total, placed_at=placed))

    asyncio.run(place())
    return customer_id


def decide() -> None:
    """Let orders and customers work until the order is decided, or cannot be."""

    async def decided() -> bool:
        async with books_of(orders) as (_, books):
            letters = len(await books.letters())
        return await applied(customers) == 1 and await applied(orders) + letters == 1

    asyncio.run(work_until(decided, orders, customers))


def reactions(event: Any) -> dict[str, tuple[str, ...]]:
    return {each["service"]: (*each["handlers"], each["state"]) for each in event["reactions"]}


def test_an_order_is_followed_from_the_outbox_to_the_view(stack: str, ensue: Command) -> None:
    customer_id = place_order()
    unsent = ensue("flow", FLOW, *SHOP[:2], "--json")
    [event] = unsent.json["events"]
    assert (event["type"], event["key"], event["place"]) == ("orders.OrderCreated.v1", str(customer_id), "unsent")
    assert reactions(event) == {"customers": ("reserve_credit", "pending")}

    decide()
    assert ensue("db", "init", SHOP[2]).code == 0
    found = ensue("flow", FLOW, *SHOP, "--json")
    assert found.code == 0, found.err
    created, reserved, opened = found.json["events"]
    assert [(each["type"], each["sender"], each["cause"], each["because_of"]) for each in found.json["events"]] == [
        ("orders.OrderCreated.v1", "orders", "outside", None),
        ("customers.CreditReserved.v1", "customers", "event", 1),
        ("orders.OrderOpened.v1", "orders", "event", 2),
    ]
    assert reactions(created) == {
        "customers": ("reserve_credit", "done"),
        order_history.name: ("add_order", "pending"),
    }
    assert reactions(reserved) == {
        "orders": ("open_order", "done"),
        order_history.name: ("add_reservation", "pending"),
    }
    assert reactions(opened) == {order_history.name: ("show_open", "pending")}
    assert {each["place"] for each in found.json["events"]} <= {"log", "unsent"}

    async def shown() -> bool:
        return await applied(order_history) == 4

    asyncio.run(work_until(shown, orders, customers, order_history))
    found = ensue("flow", FLOW, *SHOP, "--json")
    assert {state for each in found.json["events"] for *_, state in reactions(each).values()} == {"done"}
    assert {each["place"] for each in found.json["events"]} == {"log"}
    said = ensue("flow", FLOW, *SHOP)
    assert said.err == ""
    assert "47.11" not in said.out
    assert "publishes orders.OrderOpened.v1, key " + str(customer_id) + ", because of 2" in said.out
    assert "-> orders (open_order): done, published 3" in said.out
    diagram = ensue("flow", FLOW, *SHOP, "--mermaid").out.splitlines()
    assert diagram[0] == "sequenceDiagram"
    assert len([line for line in diagram if "->>" in line]) == 1 + 5


def test_a_step_that_failed_is_shown_with_its_dead_letter(stack: str, ensue: Command) -> None:
    place_order(Status.CANCELLED)
    decide()
    found = ensue("flow", FLOW, *SHOP[:2], "--json").json["events"]
    assert [each["type"] for each in found] == ["orders.OrderCreated.v1", "customers.CreditReserved.v1"]
    [failed] = found[1]["reactions"]
    assert (failed["service"], failed["handlers"], failed["state"]) == ("orders", ["open_order"], "set aside")
    assert (failed["letter"]["state"], failed["letter"]["attempts"]) == ("dead", 1)
    assert failed["letter"]["error"].startswith("CannotHappen: handler open_order: order ")
    letter = failed["letter"]["id"]
    assert f"(open_order): dead after 1 try, dead letter {letter}: CannotHappen" in ensue("flow", FLOW, *SHOP[:2]).out
    assert ensue("dead-letters", "discard", SHOP[0], letter, "--yes").code == 0
    assert f"discarded after 1 try, dead letter {letter}: " in ensue("flow", FLOW, *SHOP[:2]).out
