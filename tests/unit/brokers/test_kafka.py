"""The Kafka broker keeps every promise of the port, on a real KRaft broker."""

from __future__ import annotations

import asyncio
import itertools
import os

import pytest
from confluent_kafka import Producer
from servers import KafkaServer

from ensue.brokers.kafka import KafkaBroker
from ensue.conformance.broker import BrokerConformance
from ensue.ports import Broker

_numbers = itertools.count(1)


class TestKafkaBroker(BrokerConformance):
    capabilities = KafkaBroker.capabilities
    patience_s = 20.0

    @pytest.fixture(autouse=True)
    def log(self, kafka_server: KafkaServer) -> None:
        self.prefix = f"test-{os.getpid()}-{next(_numbers)}."
        self.server = kafka_server
        self.url = f"{kafka_server.url()}?timeout_s=60&prefix={self.prefix}"  # a server just started takes its time

    async def make_broker(self) -> Broker:
        return KafkaBroker(self.url)

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        stranger = Producer({"bootstrap.servers": f"127.0.0.1:{self.server.port}"})
        stranger.produce(self.prefix + topic, b"?", b"\xff", partition)
        assert stranger.flush(self.patience_s) == 0
        stranger.close()

    async def limit_records(self, broker: Broker, topic: str, partition: int) -> int:
        await asyncio.to_thread(self.server.configure, self.prefix + topic, {"max.message.bytes": "20000"})
        return 20_000
