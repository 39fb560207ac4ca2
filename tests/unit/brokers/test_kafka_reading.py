"""Readers of one Kafka partition at different offsets, holes in the log, buffers that fill up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
from confluent_kafka import Producer
from servers import KafkaServer
from tests.unit.brokers.opened import with_topic

from ensue.brokers.kafka import KafkaBroker, reading
from ensue.brokers.kafka.wire import encode
from ensue.conformance.broker import SOURCE, TOPIC, entries, entry, positions, read
from ensue.message import Garbage, Message
from ensue.ports import Reader

PATIENCE_S = 60.0


@pytest.fixture
def url(kafka_server: KafkaServer, request: pytest.FixtureRequest) -> str:
    return f"{kafka_server.url()}?timeout_s=30&prefix={abs(hash(request.node.name))}."


def opened(url: str, partitions: int = 1) -> AbstractAsyncContextManager[KafkaBroker]:
    return with_topic(KafkaBroker(url), partitions)


async def follow(broker: KafkaBroker, after: int, last: int, limit: int = 100) -> list[Message | Garbage]:
    return await follow_by(broker.reader(TOPIC, 0, after), last, limit)


async def follow_by(reader: Reader, last: int, limit: int = 100) -> list[Message | Garbage]:
    found: list[Message | Garbage] = []
    async with asyncio.timeout(PATIENCE_S):
        while reader.after < last:
            found += await reader.read(limit, PATIENCE_S)
            await asyncio.sleep(0)
    await reader.close()
    return found


async def test_readers_of_one_partition_at_different_offsets_each_see_everything(url: str) -> None:
    """Each has a consumer of its own, which ends with it."""
    async with opened(url) as broker:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 3000))
        found = await asyncio.gather(*(follow(broker, number * 100, last, 50 + number) for number in range(6)))
        for number, records in enumerate(found):
            assert positions(records) == list(range(number * 100 + 1, 3001))
        assert broker._state is not None
        assert len(broker._state.fetchers._fetchers) == 1


async def test_a_reader_that_jumps_about_always_gets_what_follows(url: str) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    async with opened(url) as broker:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 500))
        for _ in range(30):
            after = chance.randrange(0, 500)
            batch = await read(broker, TOPIC, 0, after, chance.randrange(1, 100), chance.choice([0.0, 5.0]))
            assert batch, f"seed {seed}: nothing after {after} of {last}"
            first = positions(batch)[0]
            assert positions(batch) == list(range(after + 1, after + 1 + len(batch))), f"seed {seed}: began at {first}"


async def test_a_reader_that_stops_holds_back_no_other_and_keeps_its_place(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LOW_RECORDS", 50)
    monkeypatch.setattr(reading, "HIGH_RECORDS", 200)
    async with opened(url, partitions=2) as broker:
        lasts = []
        for number in range(2):
            lasts.append(await broker.append(TOPIC, number, SOURCE, entries(1, 5000)))
        stopped = broker.reader(TOPIC, 0, 0)
        assert positions(await stopped.read(1, PATIENCE_S)) == [1]
        await follow_by(broker.reader(TOPIC, 1, 0), lasts[1])
        assert positions(await follow_by(stopped, lasts[0])) == list(range(2, 5001))


async def test_big_records_come_in_small_batches_and_all_of_them(url: str) -> None:
    async with opened(url) as broker:
        big = [entry(number, data=b"x" * 3_000_000) for number in range(1, 12)]
        last = 0
        for each in big:
            last = await broker.append(TOPIC, 0, SOURCE, [each])
        found = []
        reader = broker.reader(TOPIC, 0, 0)
        async with asyncio.timeout(PATIENCE_S):
            while reader.after < last:
                batch = await reader.read(500, PATIENCE_S)
                assert len(batch) <= 3
                found += positions(batch)
        assert found == list(range(1, 12))


def transaction(url: str, topic: str, positions: Sequence[int], end: Callable[[Producer], None]) -> None:
    """Write as a foreign transactional producer does; each transaction leaves a marker, which takes an offset."""
    server, prefix = url.removeprefix("kafka://").split("?timeout_s=30&prefix=")
    producer = Producer({"bootstrap.servers": server, "transactional.id": f"stranger-{prefix}"})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for key, headers, value in encode(SOURCE, 0, [entry(position) for position in positions]):
        producer.produce(prefix + topic, value, key, 0, headers=headers)
    producer.flush()
    end(producer)
    producer.close()


async def test_markers_of_transactions_leave_holes_that_hold_nobody_up(url: str) -> None:
    async with opened(url) as broker:
        await asyncio.to_thread(transaction, url, TOPIC, [1, 2], lambda producer: producer.commit_transaction())
        async with asyncio.timeout(PATIENCE_S):
            while (bounds := await broker.bounds(TOPIC, 0)).last < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the coordinator writes the marker after it answered
            found = list(await read(broker, TOPIC, 0, 0, 10, PATIENCE_S))
            while len(found) < 2:
                found += await read(broker, TOPIC, 0, found[-1].offset, 10, PATIENCE_S)
            assert positions(found) == [1, 2]
            assert found[-1].offset < bounds.last  # the marker's
            # Behind the last record there is nothing but the marker: a read says so, also one that begins there.
            for after in (found[-1].offset, bounds.last):
                assert list(await read(broker, TOPIC, 0, after, 10, 0.0)) == []
                assert list(await read(broker, TOPIC, 0, after, 10, 0.05)) == []
            waiting = asyncio.create_task(read(broker, TOPIC, 0, found[-1].offset, 10, PATIENCE_S))
            last = await broker.append(TOPIC, 0, SOURCE, entries(3, 1))
            assert positions(await waiting) == [3]
            assert last > bounds.last


async def test_what_an_aborted_transaction_wrote_is_not_read(url: str) -> None:
    async with opened(url) as broker:
        await asyncio.to_thread(transaction, url, TOPIC, [8, 9], lambda producer: producer.abort_transaction())
        async with asyncio.timeout(PATIENCE_S):
            assert list(await read(broker, TOPIC, 0, 0, 10, 0.0)) == []
            await broker.append(TOPIC, 0, SOURCE, entries(1, 2))
            last = (await broker.bounds(TOPIC, 0)).last
        assert positions(await follow(broker, 0, last)) == [1, 2]


async def test_only_our_own_topics_are_listed(url: str, kafka_server: KafkaServer) -> None:
    async with opened(url) as broker, opened(f"{kafka_server.url()}?prefix=somebody-else.") as other:
        await other.ensure_topic("their-topic", 1)
        assert await broker.topics() == {TOPIC: 1}
        assert await broker.exists()
    assert not await KafkaBroker(f"{kafka_server.url()}?prefix=nobody-has-this-prefix.").exists()


async def test_a_topic_is_made_to_keep_everything_until_ensue_prunes_it(url: str, kafka_server: KafkaServer) -> None:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._config import ConfigResource
    from confluent_kafka.admin._resource import ResourceType

    async with opened(f"{url}&replication=1") as broker:
        assert broker
        name = url.split("prefix=")[1] + TOPIC
        resource = ConfigResource(ResourceType.TOPIC, name)
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{kafka_server.port}"})
        found = await asyncio.to_thread(admin.describe_configs([resource])[resource].result)
        values = {key: found[key].value for key in ("retention.ms", "cleanup.policy", "message.timestamp.type")}
        assert values == {"retention.ms": "-1", "cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
