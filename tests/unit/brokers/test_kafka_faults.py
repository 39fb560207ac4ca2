"""Kafka killed, stopped, emptied and away: nothing acknowledged is lost, order is kept, nobody waits for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from servers import KafkaServer
from servers.base import free_port

from ensue.brokers.kafka import KafkaBroker
from ensue.conformance.broker import SOURCE, TOPIC, entries, entry, positions, read
from ensue.errors import BrokerUnavailable, RecordRefused
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Broker

#: A generous limit of what should take seconds.
PATIENCE_S = 90.0


@asynccontextmanager
async def opened(url: str, partitions: int = 1) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(url)
    await broker.open()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:  # as the engine does: a server just started has no leaders for a while
                try:
                    await broker.ensure_topic(TOPIC, partitions)
                    break
                except BrokerUnavailable:
                    await asyncio.sleep(0.05)
        yield broker
    finally:
        await broker.close()


class Writer:
    """Appends a chain in batches, again from the first after each failure, as the relay does."""

    def __init__(self, broker: Broker, size: int = 50) -> None:
        self.broker = broker
        self.size = size
        self.acknowledged = 0
        self.failures = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.broker.append(TOPIC, 0, SOURCE, entries(self.acknowledged + 1, self.size))
                self.acknowledged += self.size
            except BrokerUnavailable:
                self.failures += 1
            await asyncio.sleep(0.001)


class Follower:
    """Reads a partition and applies the chain's rule."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.offset = 0
        self.watermark = 0
        self.duplicates = 0

    async def through(self, position: Callable[[], int]) -> None:
        while self.watermark < position():
            try:
                self.apply(await read(self.broker, TOPIC, 0, self.offset, 500, 1.0))
            except BrokerUnavailable:
                await asyncio.sleep(0.05)

    def apply(self, batch: Sequence[Message | Garbage]) -> None:
        for record in batch:
            assert isinstance(record, Message)
            assert record.offset > self.offset
            self.offset = record.offset
            if record.position <= self.watermark:
                self.duplicates += 1
                continue
            assert record.previous <= self.watermark, f"position {record.position} came after {self.watermark}"
            self.watermark = record.position


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # on what another program does
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_broker_killed_in_the_middle_of_batches_loses_nothing_it_acknowledged(
    start: Callable[..., Any],
) -> None:
    server: KafkaServer = start(KafkaServer)
    async with opened(server.url()) as writing, opened(server.url()) as reading:
        writer, follower, stop = Writer(writing), Follower(reading), asyncio.Event()
        work = [
            asyncio.create_task(writer.run(stop)),
            asyncio.create_task(follower.through(lambda: 1 if not stop.is_set() else writer.acknowledged)),
        ]
        for _ in range(2):
            before = writer.acknowledged
            await until(lambda: writer.acknowledged > before + 500)  # noqa: B023  # awaited here
            server.kill()
            await asyncio.to_thread(server.start)
            after = writer.acknowledged
            await until(lambda: writer.acknowledged > after + 500)  # noqa: B023
        stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*work)
            await follower.through(lambda: writer.acknowledged)
        assert follower.watermark >= writer.acknowledged > 2000


@pytest.mark.slow
async def test_a_broker_that_stands_still_for_seconds_goes_on_where_it_was(start: Callable[..., Any]) -> None:
    server: KafkaServer = start(KafkaServer)
    async with opened(f"{server.url()}?timeout_s=3") as writing, opened(server.url()) as reading:
        writer, follower, stop = Writer(writing), Follower(reading), asyncio.Event()
        work = asyncio.create_task(writer.run(stop))
        await until(lambda: writer.acknowledged > 200)
        server.pause()
        try:
            failures = writer.failures
            await until(lambda: writer.failures > failures)  # longer than timeout_s: what was under way failed
        finally:
            server.resume()
        before = writer.acknowledged
        await until(lambda: writer.acknowledged > before + 200)
        stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await work
            await follower.through(lambda: writer.acknowledged)


async def test_what_a_failed_append_left_in_the_queue_is_never_sent_behind_newer_records(
    kafka_server: KafkaServer,
) -> None:
    async with opened(f"{kafka_server.url()}?prefix=left-over.&timeout_s=2") as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 10))
        kafka_server.pause()
        try:
            with pytest.raises(BrokerUnavailable):
                await broker.append(TOPIC, 0, SOURCE, entries(11, 10))
        finally:
            kafka_server.resume()
        for first in (11, 21):
            last = await _appended(broker, first, 10)
        found: list[Message | Garbage] = []
        async with asyncio.timeout(PATIENCE_S):
            while not found or found[-1].offset < last:
                found += await read(broker, TOPIC, 0, found[-1].offset if found else 0, 100, 1.0)
        order = positions(found)
        # What was on the wire when it failed may be there once more, but before what was sent later.
        assert order[order.index(21) :] == list(range(21, 31)), order


async def _appended(broker: Broker, first: int, count: int) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await broker.append(TOPIC, 0, SOURCE, entries(first, count))
            except BrokerUnavailable:
                await asyncio.sleep(0.05)


async def test_open_of_a_broker_that_is_down_ends_in_time() -> None:
    broker = KafkaBroker(f"kafka://user:s3cret@127.0.0.1:{free_port()}?timeout_s=1")
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.open()
    assert time.monotonic() - began < 10
    assert "s3cret" not in str(caught.value)
    with pytest.raises(BrokerUnavailable):
        await broker.exists()
    await broker.close()


@pytest.mark.slow
async def test_an_outage_is_told_and_a_broker_that_comes_back_is_used_again(start: Callable[..., Any]) -> None:
    server: KafkaServer = start(KafkaServer)
    async with opened(f"{server.url()}?timeout_s=2") as broker:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 5))
        assert positions(await read(broker, TOPIC, 0, 0, 10, 5.0)) == [1, 2, 3, 4, 5]
        server.kill()
        with pytest.raises(BrokerUnavailable):
            await broker.append(TOPIC, 0, SOURCE, entries(6, 1))
        with pytest.raises(BrokerUnavailable):
            await broker.bounds(TOPIC, 0)
        with pytest.raises(BrokerUnavailable):
            await broker.topics()
        await asyncio.to_thread(server.start)
        assert await _appended(broker, 6, 1) > last
        async with asyncio.timeout(PATIENCE_S):
            assert positions(await read(broker, TOPIC, 0, last, 10, PATIENCE_S)) == [6]


async def test_a_topic_made_anew_under_a_reader_ends_below_its_checkpoint_and_is_read_from_its_start(
    kafka_server: KafkaServer,
) -> None:
    async with opened(f"{kafka_server.url()}?prefix=anew.") as broker:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 20))
        batch = await read(broker, TOPIC, 0, 0, 100, 5.0)
        checkpoint = batch[-1].offset
        waiting = asyncio.create_task(read(broker, TOPIC, 0, last, 100, 2.0))
        await _delete_topic(kafka_server, f"anew.{TOPIC}")
        await _gone(broker)
        [ended] = await asyncio.gather(waiting, return_exceptions=True)
        assert ended == [] or isinstance(ended, BrokerUnavailable)
        await broker.ensure_topic(TOPIC, 1)
        await _appended(broker, 21, 3)
        bounds = await broker.bounds(TOPIC, 0)
        assert bounds.last < checkpoint
        assert list(await read(broker, TOPIC, 0, checkpoint, 100, 0.0)) == []
        assert list(await read(broker, TOPIC, 0, checkpoint, 100, 0.5)) == []
        found: list[Message | Garbage] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < 3:
                found += await read(broker, TOPIC, 0, found[-1].offset if found else 0, 100, 1.0)
        assert positions(found) == [21, 22, 23]
        # Its offsets reach the old checkpoint in time: what lies after it is read then.
        await broker.append(TOPIC, 0, SOURCE, entries(24, 30))
        async with asyncio.timeout(PATIENCE_S):
            late = await read(broker, TOPIC, 0, checkpoint, 1, PATIENCE_S)
        assert positions(late) == [checkpoint + 21]


async def _delete_topic(server: KafkaServer, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.port}"})
    await asyncio.to_thread(admin.delete_topics([name])[name].result)


async def _gone(broker: Broker) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await broker.partitions(TOPIC):  # noqa: ASYNC110  # the cluster forgets it in its own time
            await asyncio.sleep(0.02)


async def test_a_topic_that_vanished_is_a_retry_for_those_who_knew_it(kafka_server: KafkaServer) -> None:
    """The engine's loops then ensure their topics again."""
    async with opened(f"{kafka_server.url()}?prefix=vanished.&timeout_s=3") as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 2))
        await _delete_topic(kafka_server, f"vanished.{TOPIC}")
        with pytest.raises(BrokerUnavailable, match="is gone"):
            await _bounds_for_ever(broker)
        await broker.ensure_topic(TOPIC, 1)
        await _appended(broker, 1, 2)


async def _bounds_for_ever(broker: Broker) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await broker.bounds(TOPIC, 0)
            await asyncio.sleep(0.02)


async def test_a_record_larger_than_the_limit_is_refused_with_both_limits_named(kafka_server: KafkaServer) -> None:
    async with opened(f"{kafka_server.url()}?prefix=large.&max_message_bytes=100000") as broker:
        with pytest.raises(RecordRefused, match=r"100000 bytes.*max\.message\.bytes"):
            await broker.append(TOPIC, 0, SOURCE, [entry(1), entry(2, data=b"x" * 300_000), entry(3)])
        await _appended(broker, 1, 1)


async def test_closing_ends_what_is_under_way_with_a_word(start: Callable[..., Any]) -> None:
    """Neither a request nor an append of a broker that stands still is waited for, and nobody is cancelled."""
    server: KafkaServer = start(KafkaServer)
    broker = KafkaBroker(f"{server.url()}?timeout_s=3")
    await broker.open()
    await broker.ensure_topic(TOPIC, 1)
    await _appended(broker, 1, 1)
    server.pause()
    try:
        under_way = [
            asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(2, 5))),
            *(asyncio.create_task(broker.bounds(TOPIC, 0)) for _ in range(10)),
        ]
        reading = asyncio.create_task(read(broker, TOPIC, 0, 1, 10, PATIENCE_S))
        await asyncio.sleep(0.1)  # time to begin; were it too short, the test would be weaker, never wrong
        async with asyncio.timeout(PATIENCE_S):
            await broker.close()
            assert list(await reading) == []
            outcomes = await asyncio.gather(*under_way, return_exceptions=True)
    finally:
        server.resume()
    # An append or a request may have been answered just before the server stood still.
    assert all(isinstance(outcome, BrokerUnavailable | int | Bounds) for outcome in outcomes), outcomes
    assert any(isinstance(outcome, BrokerUnavailable) for outcome in outcomes), outcomes
