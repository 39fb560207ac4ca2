"""A real server that refuses one topic's records, or does not answer for them: that topic waits, the other goes on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from servers import KafkaServer, NatsServer, PostgresServer, RabbitMqServer, RedisServer
from tests.unit.brokers.test_nats import change_stream
from tests.unit.engine.workbench import QUICK, bench, until, until_held

from ensue import Event, Service
from ensue.adapters import make_broker
from ensue.engine import held
from ensue.testing import World


class Heavy(Event, topic="t-heavy", key="number"):
    number: int
    load: str = ""


class Light(Event, topic="t-light", key="number"):
    number: int


#: The broker's URL, and a context in which it refuses a heavy record, or all of that topic.
Spoiled = tuple[str, Callable[[], AbstractAsyncContextManager[None]]]


def nats(request: pytest.FixtureRequest) -> Spoiled:
    server: NatsServer = request.getfixturevalue("nats_server")
    prefix = f"t{secrets.token_hex(6)}"
    url = f"{server.url()}?prefix={prefix}"

    @asynccontextmanager
    async def spoiled() -> AsyncIterator[None]:
        await change_stream(url, f"{prefix}-t-heavy-0", max_msg_size=20_000)
        yield
        await change_stream(url, f"{prefix}-t-heavy-0", max_msg_size=-1)

    return url, spoiled


def kafka(request: pytest.FixtureRequest) -> Spoiled:
    server: KafkaServer = request.getfixturevalue("kafka_server")
    prefix = f"t{secrets.token_hex(6)}."

    @asynccontextmanager
    async def spoiled() -> AsyncIterator[None]:
        await asyncio.to_thread(server.configure, f"{prefix}t-heavy", {"max.message.bytes": "20000"})
        yield
        await asyncio.to_thread(server.configure, f"{prefix}t-heavy", {"max.message.bytes": "1000000"})

    return f"{server.url()}?timeout_s=30&prefix={prefix}", spoiled


def rabbitmq(request: pytest.FixtureRequest) -> Spoiled:
    """One for this test: its limit is the server's, and always there."""
    server = request.getfixturevalue("start")(RabbitMqServer, settings=["max_message_size = 20000"])

    @asynccontextmanager
    async def spoiled() -> AsyncIterator[None]:
        yield

    return server.url(), spoiled


def redis_(request: pytest.FixtureRequest) -> Spoiled:
    """Somebody has put something else in the place of the stream."""
    server: RedisServer = request.getfixturevalue("redis_server")
    prefix = f"{secrets.token_hex(6)}:"

    @asynccontextmanager
    async def spoiled() -> AsyncIterator[None]:
        async with redis.asyncio.Redis.from_url(server.url()) as stranger:
            key = f"{prefix}t-heavy:0"
            await stranger.rename(key, f"{key}-away")
            await stranger.set(key, "text")
            yield
            await stranger.rename(f"{key}-away", key)

    return f"{server.url()}?prefix={prefix}", spoiled


def postgres(request: pytest.FixtureRequest) -> Spoiled:
    """Somebody holds the row under whose lock records of that partition are appended: nobody answers for it."""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    schema = f"t{secrets.token_hex(6)}"

    @asynccontextmanager
    async def spoiled() -> AsyncIterator[None]:
        connection = await asyncpg.connect(server.url())
        try:
            async with connection.transaction():
                await connection.fetch(f"SELECT FROM {schema}.partitions WHERE topic = 't-heavy' FOR UPDATE")
                yield
        finally:
            await connection.close()

    return f"{server.url()}?schema={schema}&timeout_s=1", spoiled


@pytest.fixture(params=[nats, kafka, rabbitmq, redis_, postgres], ids=lambda each: each.__name__)
def spoiled(request: pytest.FixtureRequest) -> Spoiled:
    return request.param(request)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "RETRY_S", 0.2)
    monkeypatch.setattr(held, "AGAIN_S", 0.2)


async def test_a_topic_whose_record_is_refused_waits_and_the_other_goes_on(spoiled: Spoiled, tmp_path: Path) -> None:
    url, spoil = spoiled
    service = Service("porter")
    seen: dict[str, list[int]] = {"heavy": [], "light": []}

    @service.on
    async def carry(event: Heavy) -> None:
        seen["heavy"].append(event.number)

    @service.on
    async def take(event: Light) -> None:
        seen["light"].append(event.number)

    async def publish(*events: Event) -> None:
        async with service.step() as step:
            for event in events:
                step.publish(event)

    async with bench(tmp_path, service, broker=make_broker(url), engine=QUICK) as world:
        await publish(Heavy(number=0), Light(number=0))
        await until_long(lambda: seen == {"heavy": [0], "light": [0]}, world)
        async with spoil():
            await publish(Heavy(number=1, load="x" * 30_000), Heavy(number=2), Light(number=1))
            await until_long(lambda: seen["light"] == [0, 1], world)
            [told] = await until_held(world, service, 1)
            assert (told.topic, told.partition, told.type) == ("t-heavy", 0, "t-heavy.Heavy.v1")
            for number in range(2, 5):
                await publish(Light(number=number))
                await until_long(lambda number=number: seen["light"] == [*range(number + 1)], world)  # type: ignore[misc]
            assert seen["heavy"] == [0]
        if "amqp" in url:
            return
        await until_long(lambda: seen["heavy"] == [0, 1, 2], world)
        assert await until_held(world, service, 0) == []


async def until_long(condition: Callable[[], bool], world: World) -> None:
    """As `until`; a server may have to give up an append first, more than once."""
    for _ in range(5):
        try:
            return await until(condition, world)
        except AssertionError:
            continue
    await until(condition, world)


async def test_on_nats_a_topic_to_which_nothing_may_be_published_keeps_no_other_waiting(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    denied = 'permissions: { publish: { deny: "ensue.t-heavy.0" } }'
    users = f"authorization: {{ users: [ {{ user: porter, password: secret, {denied} }} ] }}"
    server = start(NatsServer, settings=[users])
    service = Service("porter")
    seen: list[int] = []

    @service.on
    async def take(event: Light) -> None:
        seen.append(event.number)

    url = server.url().replace("nats://", "nats://porter:secret@")
    async with bench(tmp_path, service, broker=make_broker(url)) as world:
        async with service.step() as step:
            step.publish(Heavy(number=0))
            step.publish(Light(number=0))
        await until_long(lambda: seen == [0], world)
        [told] = await until_held(world, service, 1)
        assert told.topic == "t-heavy"
        assert "Permissions Violation" in told.reason


async def test_on_rabbitmq_attributes_that_have_no_room_in_a_frame_keep_no_other_topic_waiting(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    server = start(RabbitMqServer, settings=["frame_max = 8192"])
    service = Service("porter")
    seen: list[int] = []

    @service.on
    async def take(event: Light) -> None:
        seen.append(event.number)

    async with bench(tmp_path, service, broker=make_broker(server.url())) as world:
        async with service.step() as step:
            step.publish(Heavy(number=0), {f"e{number}": "x" * 1_000 for number in range(10)})
            step.publish(Light(number=0))
        await until_long(lambda: seen == [0], world)
        [told] = await until_held(world, service, 1)
        assert told.topic == "t-heavy"
        assert "raise frame_max" in told.reason
        async with service.step() as step:
            step.publish(Light(number=1))
        await until_long(lambda: seen == [0, 1], world)


async def test_on_kafka_a_batch_larger_than_the_topic_takes_goes_in_parts(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    prefix = f"t{secrets.token_hex(6)}."
    service = Service("porter")
    seen: list[int] = []

    @service.on
    async def carry(event: Heavy) -> None:
        seen.append(event.number)

    url = f"{kafka_server.url()}?timeout_s=30&prefix={prefix}"
    async with bench(tmp_path, service, broker=make_broker(url)) as world:
        await asyncio.to_thread(kafka_server.configure, f"{prefix}t-heavy", {"max.message.bytes": "10000"})
        async with service.step() as step:
            for number in range(40):
                step.publish(Heavy(number=number, load="x" * 3_000))
        await until_long(lambda: len(seen) >= 40, world)
        assert seen == [*range(40)]
        assert await world.runtimes["porter"].readiness() == []
