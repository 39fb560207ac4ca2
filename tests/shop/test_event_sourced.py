"""Customers that are event-sourced: what else can be asked of them, and the demo with them."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from tests.shop.shopfront import Shop, get
from tests.shop.test_demo_runs import report_of, run

from ensue import UsageError
from shop.contracts import CreditReleased, CreditReserved, CustomerCreated, OrderCancelled
from shop.customers.ledger import NOTHING, Customer
from shop.settings import customers

PLACEMENTS = ["choreography/event-sourced", "orchestration/event-sourced"]


async def test_the_credit_history_of_a_customer_is_a_query(shop: Shop) -> None:
    customer_id = await shop.new_customer("50.00")
    order_id = await shop.order(customer_id, "30.00")
    await shop.order(customer_id, "20.01")
    answer = await shop.orders.post(f"/orders/{order_id}/cancel")
    assert answer.status_code == 202
    await shop.world.settle()
    answer = await shop.customers.get(f"/customers/{customer_id}/credit")
    told = [(each["version"], each["what"], each["amount"], each["reason"]) for each in answer.json()]
    assert told == [
        (1, "CustomerCreated", None, None),
        (2, "CreditReserved", "30.00", None),
        (3, "CreditReservationFailed", None, "credit limit exceeded: 20.01 asked, 20.00 available"),
        (4, "CreditReleased", "30.00", None),
    ]
    assert (await shop.get_customer(customer_id))["available"] == "50.00"
    assert (await shop.customers.get(f"/customers/{UUID(int=1)}/credit")).status_code == 404


async def test_lists_and_counts_are_as_of_rows(shop: Shop) -> None:
    ids = sorted([await shop.new_customer("10.00", name) for name in ("Ann", "Bob", "Cid")], key=str)
    await shop.order(ids[1], "4.00")
    first = await get(shop.customers, "/customers?limit=2")
    assert [each["customer_id"] for each in first["customers"]] == [str(each) for each in ids[:2]]
    assert first["after"] == str(ids[1])
    rest = await get(shop.customers, f"/customers?limit=2&after={first['after']}")
    assert ([each["customer_id"] for each in rest["customers"]], rest["after"]) == ([str(ids[2])], None)
    assert await get(shop.customers, "/customers/counts") == {"customers": 3, "reservations": 1}


async def test_a_customer_that_is_sent_twice_is_one(shop: Shop) -> None:
    customer_id = await shop.new_customer("10.00")
    body = {"customer_id": str(customer_id), "name": "Ann", "credit_limit": "10.00"}
    assert (await shop.customers.post("/customers", json=body)).status_code == 200
    assert (await shop.customers.post("/customers", json=body | {"name": "Eve"})).status_code == 409


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="SHOP_CUSTOMERS is 'rows', expected state or event-sourced"):
        customers({"SHOP_CUSTOMERS": "rows"})


def test_the_ledger_decides_as_the_rows_do() -> None:
    import ensue.testing

    ann, one = UUID(int=1), UUID(int=2)
    created = CustomerCreated(customer_id=ann, name="Ann", credit_limit=NOTHING + 50)
    reserved = CreditReserved(customer_id=ann, order_id=one, amount=NOTHING + 30)
    ensue.testing.given(Customer, created).when(Customer.reserve, one, NOTHING + 30).then(reserved)
    released = CreditReleased(customer_id=ann, order_id=one, amount=NOTHING + 30)
    ensue.testing.given(Customer, created, reserved).when(Customer.release, one).then(released)
    ensue.testing.given(Customer, created).when(Customer.release, one).then()
    with pytest.raises(UsageError, match="has no @evolves for it"):
        ensue.testing.given(Customer, created).when(
            lambda customer: OrderCancelled(order_id=one, customer_id=customer.customer_id)
        )


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--chaos", "--placement=orchestration"])
def test_the_demo_with_event_sourced_customers(tmp_path: Path, option: str) -> None:
    options = ("--customers", "event-sourced", "--orders", "24", "--rate", "6", "--seed", "5", option, "--json")
    report = report_of(run(tmp_path / "data", *options))
    assert report["customers"] == "event-sourced"
    assert report["invariants"]
