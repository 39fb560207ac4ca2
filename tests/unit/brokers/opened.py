"""A broker that a test opens, and asks again while its server is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from ensue.conformance.broker import TOPIC
from ensue.errors import BrokerUnavailable
from ensue.ports import Broker

PATIENCE_S = 20.0

B = TypeVar("B", bound=Broker)
T = TypeVar("T")


@asynccontextmanager
async def with_topic(broker: B, partitions: int) -> AsyncIterator[B]:
    """Open it, with a topic of so many partitions (0: with none), and close it."""
    await broker.open()
    try:
        if partitions:
            await broker.ensure_topic(TOPIC, partitions)
        yield broker
    finally:
        await broker.close()


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Call until the broker answers, as the loops do."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await attempt()
            except BrokerUnavailable:
                await asyncio.sleep(0.02)
