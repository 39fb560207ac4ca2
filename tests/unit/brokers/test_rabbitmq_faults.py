"""What the broker on RabbitMQ does beside the port: strangers, retention, a server that is away, deleted streams."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aio_pika
import pytest
from servers import RabbitMqServer
from servers.base import free_port
from servers.proxy import TcpProxy
from tests.unit.brokers.opened import patiently, with_topic

from ensue.brokers.rabbitmq import RabbitMqBroker
from ensue.conformance.broker import SOURCE, TOPIC, entries, entry, positions, read
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Garbage, Message
from ensue.ports import TopicTerms

PATIENCE_S = 20.0


def opened(url: str, partitions: int = 2) -> AbstractAsyncContextManager[RabbitMqBroker]:
    return with_topic(RabbitMqBroker(url), partitions)


@pytest.fixture
def url(rabbitmq_server: RabbitMqServer) -> str:
    return f"{rabbitmq_server.url()}?prefix={secrets.token_hex(6)}."


def queue_of(url: str, partition: int = 0) -> str:
    return f"{url.partition('prefix=')[2].partition('&')[0]}{TOPIC}.{partition}"


@asynccontextmanager
async def channel_of(server: RabbitMqServer) -> AsyncIterator[Any]:
    """A channel of aio-pika's, an AMQP client that is not ours."""
    connection = await aio_pika.connect(server.url())
    async with connection:
        yield await connection.channel()


# --- others on our streams


async def test_a_stranger_reads_our_records_as_cloudevents_of_the_amqp_binding(
    rabbitmq_server: RabbitMqServer, url: str
) -> None:
    async with opened(url) as broker, channel_of(rabbitmq_server) as channel:
        await broker.append(TOPIC, 0, SOURCE, [entry(7, key="kunde-ü", data=b'{"n":7}', previous=3)])
        await channel.set_qos(prefetch_count=10)
        queue = await channel.get_queue(queue_of(url))
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        tag = await queue.consume(arrived.put, arguments={"x-stream-offset": "first"})
        async with asyncio.timeout(PATIENCE_S):
            marker, message = await arrived.get(), await arrived.get()
        await queue.cancel(tag)
        assert "ensuemarker" in marker.headers
        assert message.body == b'{"n":7}'
        assert message.content_type == "application/json"
        found = {name: value for name, value in message.headers.items() if name.startswith("cloudEvents:")}
        assert found == {
            "cloudEvents:specversion": "1.0",
            "cloudEvents:id": "id-7",
            "cloudEvents:source": SOURCE,
            "cloudEvents:type": "OrderCreated",
            "cloudEvents:time": "2024-01-01T00:00:00Z",
            "cloudEvents:partitionkey": "kunde-ü",
            "cloudEvents:ensuepartition": "0",
            "cloudEvents:ensueposition": "7",
            "cloudEvents:ensueprevious": "3",
        }


async def test_a_strangers_events_are_read_with_every_kind_of_header(rabbitmq_server: RabbitMqServer, url: str) -> None:
    async with opened(url) as broker, channel_of(rabbitmq_server) as channel:
        for prefix in ("cloudEvents:", "cloudEvents_"):
            headers: dict[str, Any] = {
                f"{prefix}specversion": "1.0", f"{prefix}id": "x", f"{prefix}source": "/elsewhere",
                f"{prefix}type": "Foreign", f"{prefix}subject": "s", f"{prefix}count": 2**40, f"{prefix}flag": True,
                "float": 1.5, "list": [1, "a"], "table": {"a": 1}, "nothing": None, "bytes": bytearray(b"\x00"),
            }  # fmt: skip
            message = aio_pika.Message(b"<x/>", headers=headers, content_type="text/xml", priority=3, app_id="a")
            await channel.default_exchange.publish(message, queue_of(url))
        found = await read(broker, TOPIC, 0, 0, 10, PATIENCE_S)
        while len(found) < 2:
            found = [*found, *await read(broker, TOPIC, 0, found[-1].offset, 10, PATIENCE_S)]
        for each in found:
            assert isinstance(each, Message), each
            assert (each.position, each.source, each.key, each.data) == (0, "/elsewhere", "s", b"<x/>")
            assert each.envelope.content_type == "text/xml"
            assert (each.envelope.extensions or {})["count"] == str(2**40)
            assert (each.envelope.extensions or {})["flag"] == "true"


async def test_a_header_that_is_no_text_makes_garbage(rabbitmq_server: RabbitMqServer, url: str) -> None:
    headers: Any = {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": bytearray(b"\xff\xfe"),
        "cloudEvents:source": "s",
    }
    async with opened(url) as broker, channel_of(rabbitmq_server) as channel:
        await channel.default_exchange.publish(aio_pika.Message(b"?", headers=headers), queue_of(url))
        [found] = await read(broker, TOPIC, 0, 0, 10, PATIENCE_S)
        assert isinstance(found, Garbage)
        assert found.data == b"?"


async def test_a_queue_of_another_kind_is_refused_by_name(rabbitmq_server: RabbitMqServer, url: str) -> None:
    async with opened(url) as broker, channel_of(rabbitmq_server) as channel:
        await channel.queue_delete(queue_of(url))
        await channel.declare_queue(queue_of(url), durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b"?"), queue_of(url))
        with pytest.raises(UsageError, match="is no stream"):
            await read(broker, TOPIC, 0, 0, 10, PATIENCE_S)
        await channel.queue_delete(queue_of(url))


@pytest.mark.parametrize("durable", [True, False])
async def test_a_queue_of_another_kind_is_refused_at_the_start(
    rabbitmq_server: RabbitMqServer, url: str, durable: bool
) -> None:
    async with channel_of(rabbitmq_server) as channel:
        await channel.declare_queue(queue_of(url), durable=durable)
        with pytest.raises(UsageError, match=f"{queue_of(url)} is no stream"):
            async with opened(url):
                pytest.fail("it was taken for a stream")
        await channel.queue_delete(queue_of(url))


# --- retention

SMALL_SEGMENTS = {"x-stream-max-segment-size-bytes": 1_000_000}


async def made_with(server: RabbitMqServer, queue: str, arguments: dict[str, Any]) -> None:
    """Make a stream as an operator may have made it."""
    async with channel_of(server) as channel:
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "stream"} | arguments)


@pytest.mark.parametrize(
    ("arguments", "option", "expected"),
    [
        ({}, "", TopicTerms()),
        (SMALL_SEGMENTS, "", TopicTerms()),
        ({"x-max-age": "2h"}, "&max_age=2h", TopicTerms(keeps_s=7200)),
        ({"x-max-age": "2h"} | SMALL_SEGMENTS, "", TopicTerms(keeps_s=7200)),
        ({"x-max-age": "3m"} | SMALL_SEGMENTS, "&max_age=7D&segment_bytes=500000", TopicTerms(keeps_s=180)),
        ({}, "&max_age=7D", TopicTerms()),
        ({"x-max-length-bytes": 2_000_000, "x-max-age": "2h"}, "", TopicTerms(drops="by x-max-length-bytes=2000000")),
    ],
)
async def test_a_stream_tells_what_it_was_made_with_whatever_the_url_says(
    rabbitmq_server: RabbitMqServer, url: str, arguments: dict[str, Any], option: str, expected: TopicTerms
) -> None:
    await made_with(rabbitmq_server, queue_of(url, 1), arguments)
    broker = RabbitMqBroker(url + option)
    await broker.open()
    try:
        await broker.ensure_topic("other", 1)
        terms = await broker.ensure_topic(TOPIC, 2)
        if option == "&max_age=7D":  # of the other partition, which is made by the URL
            expected = dataclasses.replace(expected, keeps_s=7 * 86_400)
        assert dataclasses.replace(terms, todo="") == expected
        assert f"delete the stream {queue_of(url)[:-1]}" in terms.todo or terms == TopicTerms(todo=terms.todo)
        assert await broker.ensure_topic(TOPIC, 2) == terms
    finally:
        await broker.close()


async def test_a_log_with_a_limit_drops_its_oldest_records_and_keeps_offsets(rabbitmq_server: RabbitMqServer) -> None:
    prefix = secrets.token_hex(6)
    url = f"{rabbitmq_server.url()}?prefix={prefix}."
    await made_with(rabbitmq_server, queue_of(url), {"x-max-length-bytes": 2_000_000} | SMALL_SEGMENTS)
    async with opened(url, partitions=1) as broker:
        lasts = [
            await broker.append(TOPIC, 0, SOURCE, [entry(n, data=b"x" * 20_000) for n in range(start, start + 10)])
            for start in range(1, 201, 10)
        ]
        assert lasts == sorted(set(lasts))
        await broker.close()  # what is known of the beginning is not asked for again at once
        await broker.open()
        first, last = await broker.bounds(TOPIC, 0)
        assert last == lasts[-1]
        assert first > lasts[0]
        found = await read(broker, TOPIC, 0, 0, 500, PATIENCE_S)
        assert found[0].offset == first
        assert await broker.prune(TOPIC, 0, time.time() + 60, 100) == 0


# --- a server that is away, streams that are gone


async def test_a_connection_that_only_published_and_is_lost_is_made_again(url: str) -> None:
    async with opened(url) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        reader = broker.reader(TOPIC, 0, 0)
        assert positions(await reader.read(2, PATIENCE_S)) == [1, 2]
        session = broker._session
        assert session is not None
        reading, publishing = session._connections()
        await publishing.close()
        await patiently(lambda: broker.append(TOPIC, 0, SOURCE, entries(4, 1)))
        assert not reading.is_open  # all anew: it may be another server
        found: list[Message | Garbage] = []
        while len(found) < 2:
            found += await patiently(lambda: reader.read(5, PATIENCE_S))
        assert positions(found) == [3, 4]


async def test_a_server_that_is_down_is_unavailable_within_its_time_and_no_password_is_told() -> None:
    broker = RabbitMqBroker(f"amqp://ann:s3cret@127.0.0.1:{free_port()}/?timeout_s=1")
    for attempt in (broker.open, broker.exists):
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            await attempt()
        assert time.monotonic() - began < 5
        assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"
        assert "ann" not in str(caught.value)


async def test_a_server_that_says_nothing_is_unavailable_within_its_time() -> None:
    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="did not answer within"):
            await RabbitMqBroker(f"amqp://127.0.0.1:{port}/?timeout_s=0.5").open()
        assert time.monotonic() - began < 5


async def test_refused_credentials_and_hosts_say_so(rabbitmq_server: RabbitMqServer) -> None:
    with pytest.raises(UsageError, match="ACCESS_REFUSED") as caught:
        await RabbitMqBroker(f"amqp://nobody:wr0ng@127.0.0.1:{rabbitmq_server.port}/").open()
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(UsageError, match="elsewhere"):
        await RabbitMqBroker(f"{rabbitmq_server.url()}elsewhere").open()


@pytest.mark.parametrize("option", ["timeout_s=soon", "heartbeat_s=0", "max_age=7%20days", "nonsense=1"])
def test_an_option_that_is_wrong_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        RabbitMqBroker(f"amqp://ann:s3cret@127.0.0.1/?{option}")


async def test_a_line_that_is_cut_or_silent_ends_calls_in_their_time_and_heals(rabbitmq_server: RabbitMqServer) -> None:
    async with TcpProxy(rabbitmq_server.port) as proxy:
        url = f"amqp://127.0.0.1:{proxy.port}/?prefix={secrets.token_hex(6)}.&timeout_s=2&heartbeat_s=1"
        async with opened(url) as broker:
            last = 0
            for break_line in (proxy.freeze, proxy.cut):
                waiting = asyncio.create_task(read(broker, TOPIC, 0, last, 10, 10 * PATIENCE_S))
                await asyncio.sleep(0.05)  # time to begin to wait
                cutting = break_line()
                if cutting is not None:
                    await cutting
                async with asyncio.timeout(PATIENCE_S):
                    with pytest.raises(BrokerUnavailable):
                        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
                    with pytest.raises(BrokerUnavailable):
                        await waiting
                proxy.heal()
                last = await patiently(lambda: broker.append(TOPIC, 0, SOURCE, entries(1, 1)))
            found = await patiently(lambda: read(broker, TOPIC, 0, 0, 10, 1.0))
            assert set(positions(found)) == {1}


async def test_an_append_to_a_deleted_stream_fails_and_the_next_topic_check_makes_it_again(
    rabbitmq_server: RabbitMqServer, url: str
) -> None:
    async with opened(url) as broker, channel_of(rabbitmq_server) as channel:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 20))
        waiting = asyncio.create_task(read(broker, TOPIC, 0, last, 10, 10 * PATIENCE_S))
        await patiently(lambda: read(broker, TOPIC, 0, 0, 10, 1.0))  # the one above waits by now
        await channel.queue_delete(queue_of(url))
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(BrokerUnavailable):
                await waiting
            with pytest.raises(BrokerUnavailable):
                await broker.append_many(SOURCE, {(TOPIC, 0): entries(21, 5)})
            await broker.ensure_topic(TOPIC, 2)
            assert (await broker.bounds(TOPIC, 0)).last < last
            await broker.append_many(SOURCE, {(TOPIC, 0): entries(21, 5)})
            found = await read(broker, TOPIC, 0, 0, 100, PATIENCE_S)
        assert positions(found) == [21, 22, 23, 24, 25][: len(found)]


async def test_calls_cancelled_at_any_moment_leave_a_working_broker(url: str) -> None:
    async with opened(url) as broker:
        for number in range(40):
            calls: list[asyncio.Task[Any]] = [
                asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(1, 1))),
                asyncio.create_task(read(broker, TOPIC, 1, 0, 10, 5.0)),
                asyncio.create_task(broker.bounds(TOPIC, 0)),
                asyncio.create_task(broker.topics()),
            ]
            await asyncio.sleep(number * 0.0005)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls, timeout=PATIENCE_S)
            assert all(call.done() for call in calls), f"round {number}"
        last = await broker.append(TOPIC, 1, SOURCE, entries(1, 5))
        found: list[Any] = []
        while not found or found[-1].offset < last:
            found += await read(broker, TOPIC, 1, found[-1].offset if found else 0, 10, PATIENCE_S)
        assert positions(found) == [1, 2, 3, 4, 5]
        assert (await broker.bounds(TOPIC, 1)).last == last
