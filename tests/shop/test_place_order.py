"""The example from end to end: an order placed over HTTP is decided by another service and shown by a third."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from tests.shop.shopfront import Shop

from shop.contracts import (
    CreditReleased,
    CreditReserved,
    CustomerCreated,
    OrderCancelled,
    OrderCreated,
    OrderOpened,
    OrderRejected,
)

PLACEMENTS = ["choreography", "orchestration", "choreography/event-sourced", "orchestration/event-sourced"]
by_choreography = pytest.mark.parametrize("placement", ["choreography"], indirect=True)


async def test_order_within_the_limit_is_opened_and_shown(shop: Shop) -> None:
    customer_id = await shop.new_customer("100.00")
    body = {"customer_id": str(customer_id), "total": "19.99", "placed_at": "2010-12-01T08:26:00+01:00"}
    answer = await shop.orders.post("/orders", json=body)
    placed = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/orders/{placed['order_id']}"
    assert (placed["status"], placed["total"], placed["placed_at"]) == ("NEW", "19.99", "2010-12-01T07:26:00Z")

    await shop.world.settle()
    opened = placed | {"status": "OPEN"}
    assert await shop.get_order(placed["order_id"]) == opened
    assert await shop.get_customer(customer_id) == {
        "customer_id": str(customer_id),
        "name": "Ann",
        "credit_limit": "100.00",
        "reserved": "19.99",
        "available": "80.01",
    }
    assert await shop.get_history(customer_id) == {
        "customer": {
            "customer_id": str(customer_id), "name": "Ann", "credit_limit": "100.00", "reserved": "19.99"
        },
        "orders": [opened],
        "after": None,
    }  # fmt: skip


async def test_who_brings_the_token_along_finds_in_the_view_what_it_wrote(shop: Shop) -> None:
    """Nobody settles the world, and nobody asks twice."""
    for number in range(10):
        customer_id = str(uuid4())
        body = {"customer_id": customer_id, "name": f"Ann {number}", "credit_limit": "5.00"}
        written = await shop.customers.post("/customers", json=body)
        headers = {"Ensue-Token": written.headers["Ensue-Token"]}
        read = await shop.history.get(f"/customers/{customer_id}/orders", headers=headers)
        assert read.json()["customer"]["name"] == f"Ann {number}"
        placed = await shop.orders.post("/orders", json={"customer_id": customer_id, "total": "1.00"}, headers=headers)
        headers = {"Ensue-Token": placed.headers["Ensue-Token"]}
        read = await shop.history.get(f"/customers/{customer_id}/orders", headers=headers)
        assert [each["order_id"] for each in read.json()["orders"]] == [placed.json()["order_id"]]


async def test_whole_flow_carries_the_correlation_id_of_the_request(shop: Shop) -> None:
    customer_id = await shop.new_customer("100.00")
    answer = await shop.orders.post("/orders", json={"customer_id": str(customer_id), "total": "1.00"})
    await shop.world.settle()
    messages = await shop.world.messages("orders") + await shop.world.messages("customers")
    flow = [each for each in messages if each.correlation_id == answer.headers["x-correlation-id"]]
    assert [each.type for each in flow] == [
        "orders.OrderCreated.v1",
        "orders.OrderOpened.v1",
        "customers.CreditReserved.v1",
    ]
    created, opened, reserved = flow
    if not shop.orchestrated:
        assert reserved.envelope.causation_id == created.id
        assert opened.envelope.causation_id == reserved.id


async def test_order_over_the_limit_is_rejected_with_the_reason(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    order_id = await shop.order(customer_id, "10.01")
    found = await shop.get_order(order_id)
    assert (found["status"], found["reason"]) == ("REJECTED", "credit limit exceeded: 10.01 asked, 10.00 available")
    assert (await shop.get_customer(customer_id))["reserved"] == "0.00"
    assert (await shop.get_history(customer_id))["orders"] == [found]


async def test_order_of_an_unknown_customer_is_rejected_with_the_reason(shop: Shop) -> None:
    customer_id = uuid4()
    order_id = await shop.order(customer_id, "1.00")
    found = await shop.get_order(order_id)
    assert (found["status"], found["reason"]) == ("REJECTED", "unknown customer")
    assert await shop.get_history(customer_id) == {"customer": None, "orders": [found], "after": None}


async def test_cancelling_frees_the_credit_for_another_order(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    first = await shop.order(customer_id, "7.00")
    refused = await shop.order(customer_id, "7.00")
    answer = await shop.orders.post(f"/orders/{first}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "CANCELLED")
    await shop.world.settle()
    assert (await shop.get_customer(customer_id))["reserved"] == "0.00"
    second = await shop.order(customer_id, "7.00")
    history = await shop.get_history(customer_id)
    assert {each["order_id"]: each["status"] for each in history["orders"]} == {
        str(first): "CANCELLED",
        str(refused): "REJECTED",
        str(second): "OPEN",
    }
    assert history["customer"]["reserved"] == "7.00"
    assert len(await shop.world.published(CreditReleased)) == 1


async def test_many_orders_at_once_never_reserve_more_than_the_limit(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    order_ids = await asyncio.gather(*(shop.order(customer_id, "3.00", settle=False) for _ in range(12)))
    await shop.world.settle()
    found = [await shop.get_order(order_id) for order_id in order_ids]
    assert sorted(each["status"] for each in found) == ["OPEN"] * 3 + ["REJECTED"] * 9
    assert (await shop.get_customer(customer_id))["reserved"] == "9.00"
    members = (shop.services.orders, shop.services.customers, shop.services.order_history)
    assert [await shop.world.dead_letters(each.service) for each in members] == [[]] * 3


@by_choreography  # by orchestration each has a saga of its own, and sagas have no order among them
async def test_orders_of_one_customer_are_decided_in_the_order_they_were_placed(shop: Shop) -> None:
    customer_id = await shop.new_customer("5.00")
    order_ids = [await shop.order(customer_id, total, settle=False) for total in ("3.00", "3.00", "2.00", "0.01")]
    await shop.world.settle()
    assert [(await shop.get_order(order_id))["status"] for order_id in order_ids] == [
        "OPEN", "REJECTED", "OPEN", "REJECTED"
    ]  # fmt: skip


async def test_same_order_again_is_the_same_order(shop: Shop) -> None:
    customer_id = await shop.new_customer("100.00")
    body = {"order_id": str(uuid4()), "customer_id": str(customer_id), "total": "5.00"}
    first = await shop.orders.post("/orders", json=body)
    await shop.world.settle()
    again = await shop.orders.post("/orders", json=body | {"total": 5})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"status": "OPEN"}
    assert len(await shop.world.published(OrderCreated)) == 1


async def test_same_order_id_with_another_content_is_a_conflict(shop: Shop) -> None:
    customer_id = await shop.new_customer("100.00")
    body = {"order_id": str(uuid4()), "customer_id": str(customer_id), "total": "5.00"}
    await shop.orders.post("/orders", json=body)
    for change in ({"total": "5.01"}, {"customer_id": str(uuid4())}, {"placed_at": "2010-12-01T00:00:00Z"}):
        answer = await shop.orders.post("/orders", json=body | change)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:shop:problem:order-exists")


async def test_same_customer_again_is_the_same_customer_and_another_is_a_conflict(shop: Shop) -> None:
    body = {"customer_id": str(uuid4()), "name": "Ann", "credit_limit": "1.00"}
    assert (await shop.customers.post("/customers", json=body)).status_code == 201
    assert (await shop.customers.post("/customers", json=body)).status_code == 200
    for change in ({"name": "Bob"}, {"credit_limit": "2.00"}):
        answer = await shop.customers.post("/customers", json=body | change)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:shop:problem:customer-exists")
    await shop.world.settle()
    assert len(await shop.world.published(CustomerCreated)) == 1


async def test_cancelling_an_order_that_nothing_is_reserved_for_releases_nothing(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    await shop.order(customer_id, "4.00")
    async with shop.services.orders.service.step() as step:
        step.publish(OrderCancelled(order_id=uuid4(), customer_id=customer_id))
        step.publish(OrderCancelled(order_id=uuid4(), customer_id=uuid4()))
    await shop.world.settle()
    assert (await shop.get_customer(customer_id))["reserved"] == "4.00"
    assert await shop.world.published(CreditReleased) == []
    assert await shop.world.dead_letters(shop.services.customers.service) == []


@by_choreography  # by orchestration an order is not opened because of an event
async def test_what_cannot_happen_to_an_order_waits_for_a_person_and_is_not_tried_again(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    order_id = await shop.order(customer_id, "4.00")
    async with shop.services.customers.service.step() as step:
        step.publish(CreditReserved(customer_id=customer_id, order_id=order_id, amount=Decimal("4.00")))
    await shop.world.settle()
    (letter,) = await shop.world.dead_letters(shop.services.orders.service)
    assert (letter.attempts, letter.error_type) == (1, "CannotHappen")
    assert f"order {order_id} is OPEN; only NEW orders can open" in letter.error
    assert (await shop.get_order(order_id))["status"] == "OPEN"


async def test_view_takes_either_topic_first(shop: Shop) -> None:
    """Events of different topics have no order: here a customer's whole life comes before the customer."""
    customer_id, order_id = uuid4(), uuid4()
    async with shop.services.orders.service.step() as step:
        placed_at = datetime(2011, 1, 1, tzinfo=UTC)
        step.publish(
            OrderCreated(order_id=order_id, customer_id=customer_id, total=Decimal("2.00"), placed_at=placed_at)
        )
        step.publish(OrderOpened(order_id=order_id, customer_id=customer_id))
        step.publish(OrderCancelled(order_id=order_id, customer_id=customer_id))
        step.publish(OrderOpened(order_id=order_id, customer_id=customer_id))  # a status never goes back
    await shop.world.settle()
    history = await shop.get_history(customer_id)
    assert history["customer"] is None
    assert [each["status"] for each in history["orders"]] == ["CANCELLED"]

    async with shop.services.customers.service.step() as step:
        step.publish(CustomerCreated(customer_id=customer_id, name="Late", credit_limit=Decimal("3.00")))
        step.publish(CreditReserved(customer_id=customer_id, order_id=uuid4(), amount=Decimal("1.00")))
    await shop.world.settle()
    assert (await shop.get_history(customer_id))["customer"]["reserved"] == "1.00"


async def test_lists_come_a_page_at_a_time_each_entry_once(shop: Shop) -> None:
    customer_ids = [await shop.new_customer("10.00") for _ in range(5)]
    for customer_id in customer_ids:
        await shop.order(customer_id, "1.00", settle=False)
        await shop.order(customer_id, "20.00", settle=False)
    await shop.world.settle()
    for client, path, entries, number in (
        (shop.orders, "/orders?", "orders", 10),
        (shop.orders, "/orders?status=REJECTED&", "orders", 5),
        (shop.customers, "/customers?", "customers", 5),
        (shop.history, "/customers?", "customers", 5),
        (shop.history, "/orders?", "orders", 10),
        (shop.history, "/orders?status=OPEN&since=2011-01-01T00:00:00Z&", "orders", 5),
        (shop.history, f"/customers/{customer_ids[0]}/orders?", "orders", 2),
    ):
        found, after = [], ""
        while True:
            page = (await client.get(f"{path}limit=3{after}")).json()
            assert len(page[entries]) <= 3
            found += [json_id(each) for each in page[entries]]
            if page["after"] is None:
                break
            after = f"&after={page['after']}"
        assert len(found) == len(set(found)) == number, path


def json_id(entry: dict[str, str]) -> str:
    return entry.get("order_id") or entry["customer_id"]


async def test_counts_tell_the_states_of_all_orders(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    await shop.order(customer_id, "10.00")
    await shop.order(customer_id, "10.00")
    expected = {"NEW": 0, "OPEN": 1, "REJECTED": 1, "CANCELLED": 0}
    assert (await shop.orders.get("/orders/counts")).json() == expected
    assert (await shop.history.get("/orders/counts")).json() == expected
    assert (await shop.customers.get("/customers/counts")).json() == {"customers": 1, "reservations": 1}
    assert len(await shop.world.published(OrderRejected)) == 1


async def test_each_service_tells_that_it_is_healthy(shop: Shop) -> None:
    for client in (shop.orders, shop.customers, shop.history):
        assert (await client.get("/healthz")).json() == {"status": "ok"}
