"""A snapshot as any client gets it: through the services' HTTP interfaces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from random import Random
from typing import Any, TypeVar
from uuid import UUID

import aiohttp

from shop.demo.checks import Invariant, compare
from shop.demo.snapshot import CustomerState, OrderState, Snapshot

PAGE = 1000
#: How many orders and customers are also asked for one by one.
SINGLE = 250
CONCURRENCY = 8
#: How long to ask for one answer, in seconds.
GIVE_UP_S = 60.0

T = TypeVar("T")


class AnswerUnexpected(Exception):
    """A service answered a question with an error; the text says which and what."""


async def snapshot_over_http(client: aiohttp.ClientSession, urls: Mapping[str, str]) -> Snapshot:
    """Read everything, page by page."""

    async def orders(service: str) -> dict[UUID, OrderState]:
        found = pages(client, f"{urls[service]}/orders", "orders")
        return {UUID(each["order_id"]): _order(each) async for each in found}

    async def customers(service: str) -> dict[UUID, CustomerState]:
        found = pages(client, f"{urls[service]}/customers", "customers")
        return {UUID(each["customer_id"]): _customer(each) async for each in found}

    return Snapshot(
        "HTTP",
        orders=await orders("orders"),
        customers=await customers("customers"),
        view_orders=await orders("order_history"),
        view_customers=await customers("order_history"),
    )


async def check_single_answers(
    client: aiohttp.ClientSession, urls: Mapping[str, str], snapshot: Snapshot, random: Random
) -> list[Invariant]:
    """Compare what the services say of one order, one customer, one customer's history with what they list.

    Asks for SINGLE of each, chosen by `random`.
    """
    some_orders = _sample(snapshot.orders, random)
    some_customers = _sample(snapshot.customers, random)

    async def order(key: UUID) -> OrderState:
        return _order(await ask(client, f"{urls['orders']}/orders/{key}"))

    async def customer(key: UUID) -> CustomerState:
        return _customer(await ask(client, f"{urls['customers']}/customers/{key}"))

    async def history(key: UUID) -> tuple[CustomerState | None, dict[UUID, OrderState]]:
        answer = await ask(client, f"{urls['order_history']}/customers/{key}/orders", limit=str(PAGE))
        known = answer["customer"] and _customer(answer["customer"])
        return known, {UUID(each["order_id"]): _order(each) for each in answer["orders"]}

    joined: dict[UUID, dict[UUID, OrderState]] = {key: {} for key in some_customers}
    for key, each in snapshot.orders.items():
        if each.customer_id in joined:
            joined[each.customer_id][key] = each
    return [
        compare(
            "GET /orders/{id} = the list's entry", "HTTP",
            {key: snapshot.orders[key] for key in some_orders}, await _each(some_orders, order),
        ),
        compare(
            "GET /customers/{id} = the list's entry", "HTTP",
            {key: snapshot.customers[key] for key in some_customers}, await _each(some_customers, customer),
        ),
        compare(
            "a history = the customer joined with orders", "HTTP",
            {key: (snapshot.customers[key], joined[key]) for key in some_customers},
            await _each(some_customers, history),
        ),
    ]  # fmt: skip


def _sample(keys: Mapping[UUID, Any], random: Random) -> list[UUID]:
    return random.sample(sorted(keys), min(SINGLE, len(keys)))


async def _each(keys: Sequence[UUID], ask: Any) -> dict[UUID, Any]:
    """Ask for each key, some at a time."""
    found: dict[UUID, Any] = {}
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:
            found[key] = await ask(key)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(work())
    return found


async def pages(client: aiohttp.ClientSession, url: str, what: str) -> AsyncIterator[dict[str, Any]]:
    """Each entry of a list, page by page."""
    after: dict[str, str] = {}
    while True:
        page = await ask(client, url, limit=str(PAGE), **after)
        for each in page[what]:
            yield each
        if page["after"] is None:
            return
        after = {"after": page["after"]}


async def ask(client: aiohttp.ClientSession, url: str, **query: str) -> Any:
    """Ask until there is an answer that is not "try again": a service may still find out which connections were cut."""
    began = time.monotonic()
    while True:
        try:
            async with client.get(url, params=query) as answer:
                if answer.status == 200:
                    return await answer.json()
                said = f"answered {answer.status}: {(await answer.text())[:500]}"
                final = answer.status != 503
        except TimeoutError:
            said, final = "not answered", False
        if final or time.monotonic() - began > GIVE_UP_S:
            raise AnswerUnexpected(f"GET {url} {query or ''} was {said}")
        await asyncio.sleep(0.1)


def _order(found: Mapping[str, Any]) -> OrderState:
    return OrderState(
        UUID(found["customer_id"]),
        Decimal(found["total"]),
        datetime.fromisoformat(found["placed_at"]),
        found["status"],
        found["reason"],
    )


def _customer(found: Mapping[str, Any]) -> CustomerState:
    return CustomerState(found["name"], Decimal(found["credit_limit"]), Decimal(found["reserved"]))
