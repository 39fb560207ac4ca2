"""The shop's services in one process, spoken to over HTTP, by choreography and by orchestration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from random import Random
from threading import Thread

import httpx
import pytest
from fastapi import FastAPI
from tests.shop.services import services
from tests.shop.shopfront import Shop

import ensue.testing
from shop.provider.book import Book
from shop.provider.server import Provider


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """By choreography, unless a module has PLACEMENTS, or a test its own."""
    own = any(each.args[0] == "placement" for each in metafunc.definition.iter_markers("parametrize"))
    if "placement" in metafunc.fixturenames and not own:
        metafunc.parametrize("placement", getattr(metafunc.module, "PLACEMENTS", ["choreography"]), indirect=True)


@pytest.fixture
def placement(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A payment provider without trouble, which payments is told of."""
    with closing(Book(tmp_path / "provider.db")) as book, Provider(0, book, Random(1), {}) as found:
        thread = Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("SHOP_PROVIDER", found.url)
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
async def shop(placement: str, provider: Provider) -> AsyncIterator[Shop]:
    found = services(placement)
    async with AsyncExitStack() as stack:

        async def client(app: FastAPI) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app)  # raises what the application raises: a 500 fails the test
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop"))

        orders, customers = await client(found.orders.app), await client(found.customers.app)
        history = await client(found.order_history.app)
        members = [found.orders.service, found.customers.service, found.order_history.service]
        if found.placement == "orchestration":
            members.append(found.payments.service)
        world = await stack.enter_async_context(ensue.testing.run(*members))
        yield Shop(found, world, orders, customers, history, provider)
