"""One order as a trace: from the request through the three services, span by span, on several logs."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import SpanKind
from tests.shop.services import services
from tests.spans import Spans, trace_of

from ensue.integrations.opentelemetry import OpenTelemetry

#: One record at a time, so that a message comes in no batch with others.
SETTINGS = {"ENSUE_BATCH_RECORDS_MAX": "1", "ENSUE_POLL_INTERVAL_S": "0.05"}
LINKED = """\
- step orders
  - create orders
    ~ process orders by customers, reserve_credit
      - create customers
        ~ process customers by order_history@1, add_reservation
        ~ process customers by orders, open_order
          - create orders
            ~ process orders by order_history@1, show_open
            ~ send orders
        ~ send customers
    ~ process orders by order_history@1, add_order
    ~ send orders"""


@pytest.fixture(params=["sqlite", "kafka", "nats"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/broker.db"
    server: Any = request.getfixturevalue(f"{request.param}_server")
    dot = "." if request.param == "kafka" else ""
    return f"{server.url()}?prefix=traces{secrets.token_hex(4)}{dot}"


class Traced:
    """The three services, running, with their HTTP clients and what they have traced."""

    def __init__(self, spans: Spans, orders: httpx.AsyncClient, customers: httpx.AsyncClient) -> None:
        self.spans = spans
        self.orders = orders
        self.customers = customers

    async def place(self, total: str) -> Any:
        """Place an order in a request's span; return that when the order is decided and shown."""
        body = {"customer_id": secrets.token_hex(16), "name": "Ann", "credit_limit": "100.00"}
        answer = await self.customers.post("/customers", json=body)
        await self.spans.until(lambda: bool(self.spans.named("process customers")))
        self.spans.ended.clear()
        tracer = self.spans.provider.get_tracer("http")
        with tracer.start_as_current_span("POST /orders", kind=SpanKind.SERVER) as request:
            placed = {"customer_id": answer.json()["customer_id"], "total": total}
            assert (await self.orders.post("/orders", json=placed)).status_code == 201
        ends = {"add_reservation", "show_open"}
        await self.spans.until(
            lambda: ends <= {(each.attributes or {}).get("ensue.handler") for each in self.spans.ended}
        )
        await self.spans.until(lambda: len(self.spans.named("send orders")) == 2)
        return request


@pytest.fixture
async def traced(
    request: pytest.FixtureRequest, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Traced]:
    found, spans = services("choreography"), Spans()
    for name, value in {**SETTINGS, "ENSUE_HOME": str(tmp_path), "ENSUE_BROKER": log}.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:

        async def client(app: FastAPI) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app)
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop"))

        for each in (found.orders.service, found.customers.service, found.order_history.service):
            monkeypatch.setattr(each, "tracing", OpenTelemetry(parent=request.param, tracer_provider=spans.provider))
            await stack.enter_async_context(each.running())
        yield Traced(spans, await client(found.orders.app), await client(found.customers.app))


@pytest.mark.parametrize("traced", ["batch"], indirect=True)
async def test_what_follows_from_an_order_hangs_on_its_request_by_links(traced: Traced, log: str) -> None:
    request = await traced.place("19.99")
    assert traced.spans.tree(request) == LINKED
    systems = {str((each.attributes or {}).get("messaging.system")) for each in traced.spans.ended} - {"None"}
    assert systems == {{"sqlite": "ensue"}.get(log.partition(":")[0], log.partition(":")[0])}


@pytest.mark.parametrize("traced", ["message"], indirect=True)
async def test_what_follows_from_an_order_can_be_one_trace(traced: Traced) -> None:
    request = await traced.place("19.99")
    assert traced.spans.tree(request) == LINKED.replace("~ process", "- process")
    kinds = {each.name: each.kind for each in traced.spans.ended}
    assert kinds["step orders"] is SpanKind.INTERNAL
    assert kinds["create orders"] is SpanKind.PRODUCER
    assert kinds["send orders"] is SpanKind.CLIENT
    assert kinds["process orders"] is SpanKind.CONSUMER
    others = [each for each in traced.spans.ended if not each.name.startswith("send ")]
    assert len({trace_of(each) for each in others}) == 1
    assert len(others) == 10
