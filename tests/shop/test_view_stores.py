"""The shop with its view in a store without SQL: orders and customers on SQLite, order_history on Redis and on MongoDB.

Handlers and HTTP are the same; one setting differs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from servers import MongoDbServer, RedisServer

from ensue import EngineConfig, Service
from ensue.cli.view_check import folds_of
from ensue.stores.mongodb import MongoDbStore
from ensue.stores.redis import RedisStore
from shop.customers import customers
from shop.customers.app import app as customers_app
from shop.order_history import order_history
from shop.order_history.app import app as order_history_app
from shop.orders import orders
from shop.orders.app import app as orders_app

LIMIT_S = 30.0
QUICK = EngineConfig(poll_interval_s=0.05, tick_first_s=0.2, resend_interval_s=0.2)
SERVICES: tuple[Service, ...] = (orders, customers, order_history)


@pytest.fixture(params=["redis", "mongodb"])
def view(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _view(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "redis", "mongodb"])
def any_view(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _view(request, tmp_path)


def _view(request: pytest.FixtureRequest, directory: Path) -> str:
    """The URL of an empty database, on a real server but for SQLite."""
    if request.param == "sqlite":
        return f"sqlite:///{directory}/view.db"
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        return redis.url(40)
    name = f"view{uuid4().hex[:8]}"
    if request.param == "mongodb":
        mongodb: MongoDbServer = request.getfixturevalue("mongodb_server")
        return mongodb.url(name)
    server: Any = request.getfixturevalue("postgres_server" if request.param == "postgresql" else "mariadb_server")
    url: str = server.url(name, request.param)
    return url


@pytest.fixture(autouse=True)
async def empty(redis_server: RedisServer) -> None:
    import redis.asyncio as driver

    async with driver.Redis.from_url(redis_server.url(40)) as client:
        await client.flushdb()


@contextlib.contextmanager
def settings(tmp_path: Path, view: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    monkeypatch.setenv("ENSUE_ORDER_HISTORY_DATABASE", view)
    for name in ("poll_interval_s", "tick_first_s", "resend_interval_s"):
        monkeypatch.setenv(f"ENSUE_{name.upper()}", str(getattr(QUICK, name)))
    yield


class Shopfront:
    def __init__(self, clients: dict[str, httpx.AsyncClient]) -> None:
        self.clients = clients

    async def get(self, service: str, path: str) -> Any:
        answer = await self.clients[service].get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until(self, service: str, path: str, expected: Any) -> None:
        """Ask until the answer is as expected: the view follows by itself."""
        found: Any = None
        try:
            async with asyncio.timeout(LIMIT_S):
                while (found := await self.get(service, path)) != expected:  # noqa: ASYNC110  # HTTP has no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{service}{path} is {found}, expected {expected}")

    async def all_pages(self, path: str, entries: str) -> list[Any]:
        found: list[Any] = []
        after = ""
        while True:
            page = await self.get("order_history", f"{path}limit=2{after}")
            found += page[entries]
            if page["after"] is None:
                return found
            after = f"&after={page['after']}"


@contextlib.asynccontextmanager
async def shop() -> AsyncIterator[Shopfront]:
    async with AsyncExitStack() as stack:
        clients = {}
        for service, app in zip(SERVICES, (orders_app, customers_app, order_history_app), strict=True):
            await stack.enter_async_context(service.running())
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url="http://shop")
            clients[service.signs_as] = await stack.enter_async_context(client)
        yield Shopfront(clients)


async def new_customer(front: Shopfront, limit: str) -> UUID:
    customer_id = uuid4()
    body = {"customer_id": str(customer_id), "name": "Ann", "credit_limit": limit}
    assert (await front.clients["customers"].post("/customers", json=body)).status_code == 201
    return customer_id


async def order(front: Shopfront, customer_id: UUID, total: str) -> str:
    answer = await front.clients["orders"].post("/orders", json={"customer_id": str(customer_id), "total": total})
    assert answer.status_code == 201, answer.text
    order_id: str = answer.json()["order_id"]
    return order_id


def counts(**some: int) -> dict[str, int]:
    return {"NEW": 0, "OPEN": 0, "REJECTED": 0, "CANCELLED": 0} | some


async def test_the_view_follows_the_shop_and_is_found_again_after_a_restart(
    tmp_path: Path, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with settings(tmp_path, view, monkeypatch):
        async with shop() as front:
            kind = type(order_history.runtime.store)
            assert kind is (RedisStore if view.startswith("redis") else MongoDbStore)
            ann, bob = await new_customer(front, "10.00"), await new_customer(front, "5.00")
            opened = [await order(front, ann, "4.00") for _ in range(2)]
            rejected = [await order(front, ann, "3.00"), await order(front, bob, "6.00")]
            await front.until("order_history", "/orders/counts", counts(OPEN=2, REJECTED=2))
            answer = await front.clients["orders"].post(f"/orders/{opened[0]}/cancel")
            assert answer.status_code == 202
            expected = counts(OPEN=1, REJECTED=2, CANCELLED=1)
            await front.until("order_history", "/orders/counts", expected)
            await front.until("orders", "/orders/counts", expected)
            history = await front.get("order_history", f"/customers/{ann}/orders")
            assert [each["order_id"] for each in history["orders"]] == [*opened, rejected[0]]
            assert [each["status"] for each in history["orders"]] == ["CANCELLED", "OPEN", "REJECTED"]
            by_time = await front.all_pages("/orders?", "orders")
            assert [each["order_id"] for each in by_time] == [*opened, *rejected]
            since = by_time[1]["placed_at"].replace("+", "%2B")
            assert [each["order_id"] for each in await front.all_pages(f"/orders?since={since}&", "orders")] == [
                each["order_id"] for each in by_time[1:]
            ]
            found = await front.all_pages("/orders?status=REJECTED&", "orders")
            assert [each["order_id"] for each in found] == rejected
            listed = await front.all_pages("/customers?", "customers")
            assert [each["customer_id"] for each in listed] == sorted((str(ann), str(bob)))
            unknown = await front.clients["order_history"].get(f"/customers/{uuid4()}/orders")
            assert unknown.status_code == 404
            customer = (await front.get("customers", f"/customers/{ann}"))["credit_limit"]
            reserved = {"customer_id": str(ann), "name": "Ann", "credit_limit": customer, "reserved": "4.00"}
            await front.until("order_history", f"/customers/{ann}/orders", history | {"customer": reserved})
        async with shop() as front:
            await front.until("order_history", "/orders/counts", expected)
            await order(front, bob, "5.00")
            await front.until("order_history", "/orders/counts", counts(OPEN=2, REJECTED=2, CANCELLED=1))
            counters = [each.counters for each in (await order_history.runtime.context.books.checkpoints()).values()]
            assert sum(each.dead for each in counters) == 0


async def test_the_view_agrees_with_the_shops_events_and_is_seen_as_it_was(
    tmp_path: Path, any_view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with settings(tmp_path, any_view, monkeypatch):
        async with shop() as front:
            ann, bob = await new_customer(front, "10.00"), await new_customer(front, "10.00")
            opened, others = await order(front, ann, "4.00"), await order(front, bob, "5.00")
            await front.until("order_history", "/orders/counts", counts(OPEN=2))
            before = datetime.now(UTC).timestamp()
            assert (await front.clients["orders"].post(f"/orders/{opened}/cancel")).status_code == 202
            await front.until("order_history", "/orders/counts", counts(OPEN=1, CANCELLED=1))
            async with folds_of(order_history, "") as folds:
                verdict = await folds.check()
            assert verdict.agrees, verdict
            assert verdict.rows == {"history_customers": 2, "history_orders": 2}
            for key, expected in ((str(ann), {opened}), (None, {opened, others})):
                async with folds_of(order_history, "") as folds:
                    await folds.at(before, key)
                    async with folds.folded() as (state, compared):
                        [table] = [each for each in compared if each.name == "history_orders"]
                        found = {UUID(str(found[0])): row["status"] async for found, row in state.rows(table)}
                assert found == {UUID(each): "OPEN" for each in expected}
