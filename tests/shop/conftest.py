"""The shop's services in one process, spoken to over HTTP, by choreography and by orchestration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from fastapi import FastAPI
from tests.shop.services import services
from tests.shop.shopfront import Shop

import ensue.testing


@pytest.fixture(params=["choreography", "orchestration"])
def placement(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
async def shop(placement: str) -> AsyncIterator[Shop]:
    found = services(placement)
    async with AsyncExitStack() as stack:

        async def client(app: FastAPI) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app)  # raises what the application raises: a 500 fails the test
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop"))

        clients = [await client(each.app) for each in (found.orders, found.customers, found.order_history)]
        members = [found.orders.service, found.customers.service, found.order_history.service]
        world = await stack.enter_async_context(ensue.testing.run(*members))
        yield Shop(found, world, *clients)
