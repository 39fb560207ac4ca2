"""The embedded broker keeps every promise of the port."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensue.brokers.embedded import EmbeddedBroker
from ensue.conformance.broker import SOURCE, BrokerConformance
from ensue.message import OutboxRecord
from ensue.ports import Broker, Capabilities


class TestEmbeddedBroker(BrokerConformance):
    capabilities = Capabilities(sessions=False, power_loss_safe=False)
    options = ""

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/broker.db{self.options}"

    async def make_broker(self) -> Broker:
        broker = EmbeddedBroker(self.url)
        assert broker.capabilities == self.capabilities
        return broker

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        await broker.append(topic, partition, SOURCE, [OutboxRecord(topic, partition, "", b"\xff{", b"?")])


class TestEmbeddedBrokerThatSyncsEveryCommit(TestEmbeddedBroker):
    capabilities = Capabilities(sessions=False, power_loss_safe=True)
    options = "?synchronous=FULL"
