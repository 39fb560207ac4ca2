"""The broker in memory keeps every promise of the port."""

from __future__ import annotations

import secrets

import pytest

from ensue.brokers.memory import MemoryBroker
from ensue.conformance.broker import SOURCE, TOPIC, BrokerConformance, entries, positions, read
from ensue.message import OutboxRecord
from ensue.ports import Broker


class TestMemoryBroker(BrokerConformance):
    capabilities = MemoryBroker.capabilities

    @pytest.fixture(autouse=True)
    def log(self) -> None:
        self.url = f"memory:{secrets.token_hex(8)}"
        self.kept = MemoryBroker(self.url)  # the log lives as long as one broker of its name

    async def make_broker(self) -> Broker:
        return MemoryBroker(self.url)

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        await broker.append(topic, partition, SOURCE, [OutboxRecord(topic, partition, "", b"\xff{", b"?")])


async def test_brokers_without_a_name_share_nothing() -> None:
    one, other = MemoryBroker(), MemoryBroker("memory:")
    for broker in (one, other):
        await broker.open()
        await broker.ensure_topic(TOPIC, 1)
    await one.append(TOPIC, 0, SOURCE, entries(1, 2))
    assert positions(await read(one, TOPIC, 0, 0, 10, 0.0)) == [1, 2]
    assert not await read(other, TOPIC, 0, 0, 10, 0.0)
    for broker in (one, other):
        await broker.close()


async def test_retention_goes_by_the_time_of_the_append() -> None:
    now = 1000.0
    broker = MemoryBroker(now=lambda: now)
    await broker.open()
    await broker.ensure_topic(TOPIC, 1)
    for first in (1, 3, 5):
        await broker.append(TOPIC, 0, SOURCE, entries(first, 2))
        now += 10
    assert await broker.prune(TOPIC, 0, 1010.0, 100) == 2
    assert await broker.prune(TOPIC, 0, 1010.1, 1) == 1
    assert positions(await read(broker, TOPIC, 0, 0, 10, 0.0)) == [4, 5, 6]
    assert await broker.prune(TOPIC, 0, 1010.1, 100) == 1
    assert positions(await read(broker, TOPIC, 0, 0, 10, 0.0)) == [5, 6]
    await broker.close()
