"""The broker on Redis Streams keeps every promise of the port, on a real server."""

from __future__ import annotations

import secrets

import pytest
import redis.asyncio
from servers import RedisServer

from ensue.brokers.redis import RedisBroker
from ensue.conformance.broker import BrokerConformance
from ensue.ports import Broker


class TestRedisBroker(BrokerConformance):
    capabilities = RedisBroker.capabilities

    @pytest.fixture(autouse=True)
    def log(self, redis_server: RedisServer) -> None:
        self.server = redis_server
        self.prefix = f"{secrets.token_hex(6)}:"

    async def make_broker(self) -> Broker:
        return RedisBroker(f"{self.server.url()}?prefix={self.prefix}")

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        async with redis.asyncio.Redis.from_url(self.server.url()) as stranger:
            await stranger.xadd(f"{self.prefix}{topic}:{partition}", {"what": b"\xff\xfe", "data": b"?"})
