"""The driver against a shop that loses answers, is down now and then, and takes its time to decide."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from uuid import UUID

import aiohttp.test_utils
import pytest
from aiohttp import web

from shop.demo.dataset import invoices
from shop.demo.driver import Driver, OperationFailed
from shop.demo.model import run_model
from shop.demo.plan import CancelOrder, CreateCustomer, PlaceOrder, Plan, first_orders, make_plan

PLAN = make_plan(first_orders(invoices(), 300), seed=5)
MODEL = run_model(PLAN)


class Shop:
    """Remembers what took effect, by id or key, and what was asked in which order. trouble: share of requests."""

    def __init__(self, random: Random, trouble: float) -> None:
        self.random, self.trouble = random, trouble
        self.seen: set[str] = set()
        self.order_of: dict[str, list[str]] = defaultdict(list)
        self.customer_of: dict[str, str] = {}
        self.undecided: dict[str, int] = {}

    def take_effect(self, customer: str, what: str) -> bool:
        if what in self.seen:
            return False
        self.seen.add(what)
        self.order_of[customer].append(what)
        return True

    async def customers(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        fresh = self.take_effect(body["customer_id"], f"customer {body['customer_id']} {body['credit_limit']}")
        return self._answer(request, 201 if fresh else 200)

    async def orders(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        self.customer_of[body["order_id"]] = body["customer_id"]
        self.undecided.setdefault(body["order_id"], self.random.randrange(3))
        fresh = self.take_effect(body["customer_id"], f"order {body['order_id']} {body['total']}")
        return self._answer(request, 201 if fresh else 200)

    async def cancel(self, request: web.Request) -> web.Response:
        await self._read(request)
        assert request.headers["Idempotency-Key"].startswith("credit note C")
        order_id = request.match_info["id"]
        if self.undecided[order_id]:
            self.undecided[order_id] -= 1
            return web.json_response({"status_of_order": "NEW"}, status=409)
        if MODEL.orders[UUID(order_id)].status == "REJECTED":
            return web.json_response({"status_of_order": "REJECTED"}, status=409)
        self.take_effect(self.customer_of[order_id], f"cancel {order_id}")
        return self._answer(request, 202)

    async def _read(self, request: web.Request) -> Any:
        if self.random.random() < self.trouble:  # down before it took effect
            raise web.HTTPServiceUnavailable if self.random.random() < 0.5 else ConnectionResetError
        return await request.json() if request.can_read_body else None

    def _answer(self, request: web.Request, status: int) -> web.Response:
        if self.random.random() < self.trouble and request.transport is not None:
            request.transport.abort()  # it took effect; the answer is lost
        return web.json_response({}, status=status)


@asynccontextmanager
async def running(shop: Shop) -> AsyncIterator[dict[str, str]]:
    app = web.Application()
    app.router.add_post("/customers", shop.customers)
    app.router.add_post("/orders", shop.orders)
    app.router.add_post("/orders/{id}/cancel", shop.cancel)
    async with aiohttp.test_utils.TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        yield {"orders": url, "customers": url}


def expected_of(plan: Plan) -> dict[str, list[str]]:
    expected: dict[str, list[str]] = {}
    for customer, planned in plan.by_customer.items():
        texts = expected[str(customer)] = []
        for each in planned:
            match each.operation:
                case CreateCustomer(customer_id, _, limit):
                    texts.append(f"customer {customer_id} {limit}")
                case PlaceOrder(_, order_id, total, _):
                    texts.append(f"order {order_id} {total}")
                case CancelOrder(_, order_id, _) if MODEL.orders[order_id].status != "REJECTED":
                    texts.append(f"cancel {order_id}")
    return expected


@pytest.mark.parametrize(("seed", "trouble"), [(1, 0.0), (2, 0.05), (3, 0.3)])
async def test_every_operation_takes_effect_once_and_each_customers_in_order(seed: int, trouble: float) -> None:
    shop = Shop(Random(seed), trouble)
    async with running(shop) as urls:
        driven = Driver(PLAN, urls, Random(seed))
        await driven.run()
    assert dict(shop.order_of) == expected_of(PLAN), f"seed {seed}"
    assert driven.sent.done == {
        "customers": PLAN.customers, "orders": PLAN.orders, "cancellations": PLAN.cancellations
    }  # fmt: skip
    assert driven.sent.refused == MODEL.refused
    assert bool(driven.sent.resent) == bool(driven.sent.known_before) == bool(trouble)


async def test_orders_are_told_with_the_time_they_were_due() -> None:
    told: list[float] = []
    shop = Shop(Random(0), 0.0)
    async with running(shop) as urls:
        await Driver(PLAN, urls, Random(0), rate=3_000, on_order=lambda _, at: told.append(at)).run()
    assert len(told) == PLAN.orders
    first = min(told)
    assert [round((at - first) * 3_000) for at in sorted(told)] == list(range(PLAN.orders))


async def test_an_answer_that_must_not_be_stops_the_run_and_is_shown() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"detail": "no such thing"}, status=404)

    app = web.Application()
    app.router.add_post("/{tail:.*}", refuse)
    async with aiohttp.test_utils.TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        with pytest.raises(ExceptionGroup) as caught:
            await Driver(PLAN, {"orders": url, "customers": url}, Random(0)).run()
    assert caught.group_contains(OperationFailed, match=r"POST /customers of customers was answered 404.*no such thing")


async def test_a_service_that_never_answers_ends_the_run() -> None:
    nobody = "http://127.0.0.1:9"  # the discard port: nothing listens there
    driven = Driver(PLAN, {"orders": nobody, "customers": nobody}, Random(0), give_up_s=0.3)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(driven.run(), 30)
    assert caught.group_contains(OperationFailed, match="had no answer for 0.3 s; the last try: .*Connect")


async def test_an_empty_plan_is_done_at_once() -> None:
    driven = Driver(Plan({}, 0, 0), {}, Random(0))
    await driven.run()
    assert driven.sent.operations == 0
