"""Whatever a client sends is answered with a clear problem, or ends as a rejected order; never with a 500.

The clients here raise what the application raises, so any 500 fails the test.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.shop.shopfront import Shop

import ensue.testing
from shop.orders import orders
from shop.orders.app import app as orders_app

JSON = {"content-type": "application/json"}

#: What no amount is. As JSON text, for JSON itself can say some of it and Python's reader takes even NaN.
NO_AMOUNTS = [
    "-1", '"-1.00"', "0", '"0"', '"0.00"', "-0.0", "NaN", "Infinity", "-Infinity", '"NaN"', '"Infinity"', '"sNaN"',
    "9" * 30, f'"{"9" * 30}"', f"{'9' * 30}.99", '"10000000.01"', "10000001", "1e300", "1e-300", '"1e3"', '"1E+3"',
    "0.001", '"0.001"', "0.30000000000000004", '"1.234"', '""', '" 1"', '"1 "', '"1_000"', '"1,000"', '"+1"', '"01"',
    '"0x10"', '"\u0661"', '"1."', '".5"', '"1\\n"', "true", "false", "null", "[]", "{}", '["1"]', '"one"',
]  # fmt: skip


def is_problem(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 3_000
    found: dict[str, Any] = answer.json()
    assert found["title"]
    assert found["detail"]
    return found


@pytest.mark.parametrize("content", [b"{", b"order please", b"", b"\x00\xff", b"<order/>", b"[" * 5000])
async def test_what_is_not_json_is_a_client_error(shop: Shop, content: bytes) -> None:
    is_problem(await shop.orders.post("/orders", content=content, headers=JSON), 400, 422)
    is_problem(await shop.customers.post("/customers", content=content, headers=JSON), 400, 422)


@pytest.mark.parametrize("body", [None, 1, "order", [], [{}], {"customer_id": 5, "total": "1.00"}, {"customer_id": {}}])
async def test_wrong_type_is_422(shop: Shop, body: object) -> None:
    is_problem(await shop.orders.post("/orders", json=body), 422)
    is_problem(await shop.customers.post("/customers", json=body), 422)


async def test_another_content_type_is_415(shop: Shop) -> None:
    answer = await shop.orders.post("/orders", content=b"total=1", headers={"content-type": "text/plain"})
    is_problem(answer, 415)


async def test_ten_megabyte_body_is_413(shop: Shop) -> None:
    content = b'{"total": "' + b"1" * 10_000_000 + b'"}'
    is_problem(await shop.orders.post("/orders", content=content, headers=JSON), 413)
    is_problem(await shop.customers.post("/customers", content=content, headers=JSON), 413)
    is_problem(await shop.orders.post(f"/orders/{uuid4()}/cancel", content=content, headers=JSON), 404, 413)


async def test_what_is_no_amount_is_422_with_the_rule(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    for amount in NO_AMOUNTS:
        content = f'{{"customer_id": "{customer_id}", "total": {amount}}}'.encode()
        found = is_problem(await shop.orders.post("/orders", content=content, headers=JSON), 422)
        assert [each["location"] for each in found["errors"]] == ["body.total"], amount
        assert "two decimals, more than 0" in found["errors"][0]["message"]


async def test_what_is_no_limit_is_422_and_zero_is_a_limit(shop: Shop) -> None:
    for amount in NO_AMOUNTS:
        content = f'{{"name": "Ann", "credit_limit": {amount}}}'.encode()
        answer = await shop.customers.post("/customers", content=content, headers=JSON)
        if amount in ("0", '"0"', '"0.00"', "-0.0"):
            assert (answer.status_code, answer.json()["credit_limit"]) == (201, "0.00")
        else:
            is_problem(answer, 422)


@pytest.mark.parametrize("total", ["1.50", "1.5", 1.5, 1, "1", "10000000.00", 10000000, 0.01, "0.01", 19.99, 1e3])
async def test_amounts_are_taken_as_text_or_numbers(shop: Shop, total: object) -> None:
    answer = await shop.orders.post("/orders", json={"customer_id": str(uuid4()), "total": total})
    assert answer.status_code == 201
    assert float(answer.json()["total"]) == float(str(total))
    assert answer.json()["total"][-3] == "."


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b", "a\nb", "\x7f", 5, None, "\ud800"])
async def test_name_that_cannot_be_stored_is_422(shop: Shop, name: object) -> None:
    content = f'{{"credit_limit": "1.00", "name": {json.dumps(name)}}}'.encode()
    found = is_problem(await shop.customers.post("/customers", content=content, headers=JSON), 422)
    assert found["errors"][0]["location"] == "body.name"


@pytest.mark.parametrize(
    "placed_at",
    ["yesterday", "2010-12-01", "2010-12-01T08:26:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", 0,
     1e300, "1700000000", "2010-13-01T00:00:00Z", "", [], True],
)  # fmt: skip
async def test_what_is_no_moment_is_422(shop: Shop, placed_at: object) -> None:
    body = {"customer_id": str(uuid4()), "total": "1.00", "placed_at": placed_at}
    found = is_problem(await shop.orders.post("/orders", json=body), 422)
    assert found["errors"][0]["location"] == "body.placed_at"


async def test_unknown_field_is_422_so_that_a_misspelt_one_is_noticed(shop: Shop) -> None:
    body = {"customer_id": str(uuid4()), "total": "1.00", "oder_id": str(uuid4())}
    found = is_problem(await shop.orders.post("/orders", json=body), 422)
    assert found["errors"][0]["location"] == "body.oder_id"


async def test_unknown_and_malformed_ids_are_404_and_422(shop: Shop) -> None:
    for client, path in (
        (shop.orders, "/orders/{}"),
        (shop.customers, "/customers/{}"),
        (shop.history, "/customers/{}/orders"),
    ):
        is_problem(await client.get(path.format(uuid4())), 404)
        is_problem(await client.get(path.format("no-id")), 422)
    is_problem(await shop.orders.post(f"/orders/{uuid4()}/cancel"), 404)
    is_problem(await shop.orders.post("/orders/no-id/cancel"), 422)
    is_problem(await shop.orders.get("/nowhere"), 404)
    is_problem(await shop.orders.delete("/orders"), 405)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=many", "status=LOST", "after=5", "since=now", "since=2011-01-01", "since=0"],
)
async def test_wrong_query_is_422(shop: Shop, query: str) -> None:
    is_problem(await shop.history.get(f"/orders?{query}"), 422)


async def test_order_of_an_unknown_customer_is_rejected(shop: Shop) -> None:
    found = await shop.get_order(await shop.order(uuid4(), "1.00"))
    assert (found["status"], found["reason"]) == ("REJECTED", "unknown customer")


async def test_order_that_is_not_decided_cannot_be_cancelled_yet() -> None:
    async with (
        ensue.testing.run(orders),  # nobody decides here
        httpx.AsyncClient(transport=httpx.ASGITransport(orders_app), base_url="http://shop") as client,
    ):
        placed = await client.post("/orders", json={"customer_id": str(uuid4()), "total": "1.00"})
        answer = await client.post(f"{placed.headers['location']}/cancel")
        assert is_problem(answer, 409)["status_of_order"] == "NEW"
        assert answer.headers["retry-after"] == "1"
        assert (await client.get(placed.headers["location"])).json()["status"] == "NEW"


async def test_cancelling_a_rejected_order_is_a_conflict(shop: Shop) -> None:
    order_id = await shop.order(uuid4(), "1.00")
    found = is_problem(await shop.orders.post(f"/orders/{order_id}/cancel"), 409)
    assert found["type"] == "urn:shop:problem:order-rejected"
    assert "unknown customer" in found["detail"]


async def test_cancelling_twice_is_the_same_as_once(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    order_id = await shop.order(customer_id, "4.00")
    await shop.order(customer_id, "5.00")
    answers = await asyncio.gather(*(shop.orders.post(f"/orders/{order_id}/cancel") for _ in range(4)))
    await shop.world.settle()
    answers.append(await shop.orders.post(f"/orders/{order_id}/cancel"))
    await shop.world.settle()
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(202, "CANCELLED")] * 5
    assert (await shop.get_customer(customer_id))["reserved"] == "5.00"


async def test_same_idempotency_key_twice_at_once_makes_one_order(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    body = {"customer_id": str(customer_id), "total": "4.00"}
    headers = {"Idempotency-Key": "basket 1"}
    answers = await asyncio.gather(*(shop.orders.post("/orders", json=body, headers=headers) for _ in range(5)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    await shop.world.settle()
    assert (await shop.get_customer(customer_id))["reserved"] == "4.00"
    assert (await shop.orders.get("/orders/counts")).json()["OPEN"] == 1


async def test_same_idempotency_key_with_another_body_is_422(shop: Shop) -> None:
    headers = {"Idempotency-Key": "basket 1"}
    body = {"customer_id": str(uuid4()), "total": "4.00"}
    assert (await shop.orders.post("/orders", json=body, headers=headers)).status_code == 201
    is_problem(await shop.orders.post("/orders", json=body | {"total": "5.00"}, headers=headers), 422)


async def test_bad_header_is_400(shop: Shop) -> None:
    body = {"customer_id": str(uuid4()), "total": "4.00"}
    is_problem(await shop.orders.post("/orders", json=body, headers={"Idempotency-Key": "x" * 256}), 400)
