"""The Redis store keeps every promise of a store for views, on a real server."""

from __future__ import annotations

from itertools import count

import pytest
import redis.asyncio as driver
from servers import RedisServer

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.ports import Store
from ensue.stores.redis import RedisStore

_databases = count()


@pytest.fixture
async def url(redis_server: RedisServer) -> str:
    """An empty database of its own."""
    url = redis_server.url(next(_databases) % 32)
    async with driver.Redis.from_url(url) as client:
        await client.flushdb()
    return url


class TestRedisStore(StoreConformance):
    capabilities = RedisStore.capabilities

    @pytest.fixture(autouse=True)
    def server(self, url: str) -> None:
        self.url = url

    async def make_store(self) -> Store:
        return RedisStore(self.url, SERVICE)
