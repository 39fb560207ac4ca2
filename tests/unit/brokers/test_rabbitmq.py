"""The broker on RabbitMQ's stream queues keeps every promise of the port, on a real server."""

from __future__ import annotations

import secrets

import aio_pika
import pytest
from servers import RabbitMqServer

from ensue.brokers.rabbitmq import RabbitMqBroker
from ensue.conformance.broker import BrokerConformance
from ensue.ports import Broker


class TestRabbitMqBroker(BrokerConformance):
    capabilities = RabbitMqBroker.capabilities

    @pytest.fixture(autouse=True)
    def log(self, rabbitmq_server: RabbitMqServer) -> None:
        self.server = rabbitmq_server
        self.prefix = f"{secrets.token_hex(6)}."

    async def make_broker(self) -> Broker:
        return RabbitMqBroker(f"{self.server.url()}?prefix={self.prefix}")

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        connection = await aio_pika.connect(self.server.url())
        async with connection:
            channel = await connection.channel()
            message = aio_pika.Message(b"\xff\xfe?", headers={"what": "is this"})
            await channel.default_exchange.publish(message, f"{self.prefix}{topic}.{partition}")
