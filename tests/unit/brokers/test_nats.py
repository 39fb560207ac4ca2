"""The NATS broker keeps every promise of the port, on a real server and on a cluster of three."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from servers import NatsCluster, NatsServer

from ensue.brokers.nats import NatsBroker
from ensue.brokers.nats.jetstream import JetStream
from ensue.brokers.nats.link import Link, connect
from ensue.brokers.nats.options import parse_nats_url
from ensue.brokers.nats.wire import OneAnswer
from ensue.conformance.broker import BrokerConformance
from ensue.ports import Broker, Capabilities


async def publish(url: str, subject: str, headers: bytes, data: bytes) -> None:
    """Put bytes in the log as a stranger would, past the adapter's encoder; return when they are in it."""
    options = parse_nats_url(url)
    host, port = options.hosts[0]
    wire = await connect(options, host, port, host)
    try:
        answer = OneAnswer()
        reply = wire.inbox.encode() + b"." + wire.expect(answer)
        size = len(headers) + len(data)
        wire.send(b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject.encode(), reply, len(headers), size, headers, data))
        async with asyncio.timeout(10):
            _, acknowledgement = await answer.future
        assert b'"seq"' in acknowledgement
    finally:
        await wire.close()


async def change_stream(url: str, name: str, **settings: object) -> None:
    """Change a stream as an administrator would."""
    options = parse_nats_url(url)
    link = Link(options)
    await link.open()
    try:
        jetstream = JetStream(link, options)
        info = await jetstream.stream_info(name)
        assert info is not None
        await jetstream.call(f"STREAM.UPDATE.{name}", info.config | settings)
    finally:
        await link.close()


class TestNatsBroker(BrokerConformance):
    capabilities = Capabilities(sessions=False, power_loss_safe=False)

    @pytest.fixture(autouse=True)
    def log(self, nats_server: NatsServer) -> None:
        self.prefix = f"t{secrets.token_hex(6)}"
        self.url = f"{nats_server.url()}?prefix={self.prefix}"

    async def make_broker(self) -> Broker:
        broker = NatsBroker(self.url)
        assert broker.capabilities == self.capabilities
        return broker

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        await publish(self.url, f"{self.prefix}.{topic}.{partition}", b"NATS/1.0\r\nce-id: \xff\r\n\r\n", b"\x00?")

    async def limit_records(self, broker: Broker, topic: str, partition: int) -> int:
        await change_stream(self.url, f"{self.prefix}-{topic}-{partition}", max_msg_size=20_000)
        return 20_000


class TestNatsBrokerOnAClusterWithThreeReplicas(TestNatsBroker):
    patience_s = 30.0

    @pytest.fixture(autouse=True)
    def log(self, nats_cluster: NatsCluster) -> None:
        self.prefix = f"t{secrets.token_hex(6)}"
        self.url = f"{nats_cluster.url()}?prefix={self.prefix}&replicas=3"
