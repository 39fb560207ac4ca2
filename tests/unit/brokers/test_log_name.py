"""Each kind of log has a name in itself: the same for all who reach it, another one for another log or prefix."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ensue.adapters import make_broker
from ensue.engine.same_log import log_name

#: A URL for each log: `{url}` is the server's.
URLS = {
    "embedded": "sqlite:///{directory}/{name}.db",
    "nats_server": "{url}?prefix={name}",
    "kafka_server": "{url}?timeout_s=60&prefix={name}.",
    "rabbitmq_server": "{url}?prefix={name}.",
    "redis_server": "{url}?prefix={name}:",
    "postgres_server": "{url}?schema={name}",
}


@pytest.fixture(params=URLS)
def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The URL of the log with this name."""
    url = "" if request.param == "embedded" else request.getfixturevalue(request.param).url()
    run = f"log{secrets.token_hex(4)}"
    return lambda name: URLS[request.param].format(url=url, directory=tmp_path, name=f"{run}{name}")


@pytest.fixture
async def name_of(url_of: Callable[[str], str]) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    async with AsyncExitStack() as stack:

        async def look(name: str) -> str:
            broker = make_broker(url_of(name))
            await broker.open()
            stack.push_async_callback(broker.close)
            return await log_name(broker)

        yield look


@pytest.mark.timeout(120)
async def test_a_log_has_one_name_and_another_log_another(name_of: Callable[[str], Awaitable[str]]) -> None:
    first = await name_of("one")
    assert first
    assert await asyncio.gather(*(name_of("one") for _ in range(3))) == [first] * 3
    assert await name_of("two") not in ("", first)
    together = set(await asyncio.gather(*(name_of("three") for _ in range(4))))
    assert await name_of("three") in together
