"""The three services in one process, spoken to over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from fastapi import FastAPI
from tests.shop.shopfront import Shop

import ensue.testing
from shop.customers import customers
from shop.customers.app import app as customers_app
from shop.order_history import order_history
from shop.order_history.app import app as order_history_app
from shop.orders import orders
from shop.orders.app import app as orders_app


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:

        async def client(app: FastAPI) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app)  # raises what the application raises: a 500 fails the test
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop"))

        world = await stack.enter_async_context(ensue.testing.run(orders, customers, order_history))
        yield Shop(world, await client(orders_app), await client(customers_app), await client(order_history_app))
