"""What may be published goes through every broker as configured by default; what is larger never gets that far."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from servers import KafkaServer, NatsServer, PostgresServer, RabbitMqServer, RedisServer

from ensue import Event, Message, Service
from ensue.codec import ENVELOPE_BYTES_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX
from ensue.errors import EventRefused, EventTooLarge

LIMIT_S = 40.0


class Shipped(Event, topic="parcels-largest", key="parcel"):
    parcel: str
    content: str = ""


#: Three bytes of UTF-8 each, which NATS writes as nine.
WIDE = "顧"
KEY = WIDE * (KEY_BYTES_MAX // 3) + "x" * (KEY_BYTES_MAX % 3)
#: As much as may be in the attributes.
EXTENSIONS = {f"e{number:063d}": WIDE * 341 for number in range(14)}


def nats(start: Callable[..., Any], request: pytest.FixtureRequest, path: Path) -> str:
    server = start(NatsServer, settings=[f"max_payload: {1024 * 1024}"])  # NATS's default; the harness sets more
    return str(server.url())


def kafka(start: Callable[..., Any], request: pytest.FixtureRequest, path: Path) -> str:
    """A topic that an administrator has made, with Kafka's own limit: ours are made with a larger one."""
    server: KafkaServer = request.getfixturevalue("kafka_server")
    prefix = f"largest-{secrets.token_hex(4)}."
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.port}"})
    admin.create_topics([NewTopic(prefix + "parcels-largest", 1, 1)])[prefix + "parcels-largest"].result(30)
    return f"{server.url()}?timeout_s=30&prefix={prefix}"


def rabbitmq(start: Callable[..., Any], request: pytest.FixtureRequest, path: Path) -> str:
    server: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
    return f"{server.url()}?prefix=l{secrets.token_hex(4)}"


def redis(start: Callable[..., Any], request: pytest.FixtureRequest, path: Path) -> str:
    server: RedisServer = request.getfixturevalue("redis_server")
    return f"{server.url()}?prefix=l{secrets.token_hex(4)}"


def postgres(start: Callable[..., Any], request: pytest.FixtureRequest, path: Path) -> str:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return f"{server.url()}?schema=l{secrets.token_hex(4)}"


def embedded(start: Callable[..., Any], request: pytest.FixtureRequest, path: Path) -> str:
    return f"sqlite:///{path}/broker.db"


def memory(start: Callable[..., Any], request: pytest.FixtureRequest, path: Path) -> str:
    return f"memory:l{secrets.token_hex(4)}"


@pytest.mark.parametrize(
    "broker", [memory, embedded, nats, kafka, rabbitmq, redis, postgres], ids=lambda each: each.__name__
)
async def test_the_largest_events_arrive_and_what_is_larger_is_refused_where_it_is_published(
    broker: Callable[..., str], start: Callable[..., Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    service = Service(
        "shipping", database=f"sqlite:///{tmp_path}/s.db", broker=broker(start, request, tmp_path), partitions=1
    )
    arrived: list[tuple[str, int, dict[str, str] | None]] = []
    all_there = asyncio.Event()

    @service.on
    async def note(event: Shipped, message: Message) -> None:
        arrived.append((event.parcel, len(event.content), message.envelope.extensions))
        if event.parcel == "last":
            all_there.set()

    async with service.running():
        async with service.step() as step:
            step.publish(Shipped(parcel=KEY), EXTENSIONS)
            [record] = step.outgoing.records
            assert ENVELOPE_BYTES_MAX - 1_100 < len(record.envelope) <= ENVELOPE_BYTES_MAX
            room = RECORD_BYTES_MAX - len(record.envelope) - len(record.data) - KEY_BYTES_MAX
            for _ in range(3):  # in one batch
                step.publish(Shipped(parcel=KEY, content="x" * room), EXTENSIONS)
            largest = step.outgoing.records[-1]
            assert len(largest.envelope) + len(largest.data) + len(largest.key.encode()) == RECORD_BYTES_MAX
            with pytest.raises(EventTooLarge) as caught:
                step.publish(Shipped(parcel=KEY, content="x" * (room + 1)), EXTENSIONS)
            assert (caught.value.expected, caught.value.found) == (
                RECORD_BYTES_MAX,
                RECORD_BYTES_MAX + 1,
            )
            with pytest.raises(EventRefused):
                step.publish(Shipped(parcel=KEY + "x"))
            step.publish(Shipped(parcel="last"))
        async with asyncio.timeout(LIMIT_S):
            await all_there.wait()
    assert arrived == [(KEY, 0, EXTENSIONS), *[(KEY, room, EXTENSIONS)] * 3, ("last", 0, None)]
