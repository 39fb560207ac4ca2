"""What a topic's own settings would lose is refused at a start; what they do not take, where it is published."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from servers import KafkaServer, NatsServer, RabbitMqServer, RedisServer
from tests.unit.brokers.test_nats import change_stream
from tests.unit.engine.workbench import bench

from ensue import EngineConfig, Event, Service, UsageError, View
from ensue.adapters import make_broker
from ensue.brokers.memory import MemoryBroker
from ensue.brokers.nats.topics import _terms
from ensue.brokers.redis import RedisBroker
from ensue.engine.fits import check_kept
from ensue.errors import EventTooLarge
from ensue.ports import TopicTerms

RETENTION_S = 3600.0
#: Three bytes of UTF-8, which NATS writes as nine.
WIDE = "顧"


class Shelved(Event, topic="t-shelved", key="number"):
    number: int
    load: str = ""


def shelf(tmp_path: Path, url: str) -> Service:
    return Service(
        "shelf", database=f"sqlite:///{tmp_path}/s.db", broker=url, partitions=1, publishes=[Shelved],
        engine=EngineConfig(retention_s=RETENTION_S),
    )  # fmt: skip


async def refusal(service: Service) -> str:
    """What a start says that is refused."""
    with pytest.raises(UsageError) as caught:
        async with service.running():
            pytest.fail("it started")
    return str(caught.value)


@pytest.mark.parametrize("terms", [None, TopicTerms(), TopicTerms(keeps_s=RETENTION_S), TopicTerms(record_bytes_max=1)])
def test_a_log_that_keeps_what_it_has_for_the_retention_is_let_be(terms: TopicTerms | None) -> None:
    check_kept("t-shelved", terms, RETENTION_S)


def test_what_holds_for_one_partition_holds_for_the_topic() -> None:
    short, long = TopicTerms(keeps_s=60, todo="short"), TopicTerms(keeps_s=3600, todo="long", record_bytes_max=20)
    for terms in (short.stricter(long), long.stricter(short)):
        assert terms == TopicTerms(keeps_s=60, todo="short", record_bytes_max=20)
    full = TopicTerms(drops="by max_msgs=1", todo="full", record_bytes_max=30)
    for terms in (full.stricter(long), long.stricter(full)):
        assert terms == TopicTerms(drops="by max_msgs=1", todo="full", record_bytes_max=20)
    assert TopicTerms().stricter(TopicTerms()) == TopicTerms()


async def made(url: str, partitions: int = 1) -> TopicTerms | None:
    broker = make_broker(url)
    await broker.open()
    try:
        return await broker.ensure_topic("t-shelved", partitions)
    finally:
        await broker.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_age": int((RETENTION_S - 60) * 1e9)}, "after 3540 s, before Ensue's retention of 3600 s ends"),
        ({"max_msgs": 100}, "by max_msgs=100"),
        ({"max_bytes": 1_000_000}, "by max_bytes=1000000"),
        ({"max_msgs_per_subject": 100}, "by max_msgs_per_subject=100"),
    ],
)
async def test_a_stream_that_loses_records_is_refused_at_the_start(
    nats_server: NatsServer, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    prefix = f"t{secrets.token_hex(6)}"
    url = f"{nats_server.url()}?prefix={prefix}"
    await made(url)
    await change_stream(url, f"{prefix}-t-shelved-0", **settings)
    text = await refusal(shelf(tmp_path, url))
    assert f"deletes records of topic t-shelved {said}" in text
    assert f"stream {prefix}-t-shelved-0" in text
    changed = dict.fromkeys(settings, -1) if "max_age" not in settings else {"max_age": 0}
    await change_stream(url, f"{prefix}-t-shelved-0", **changed)
    async with shelf(tmp_path, url).running():
        pass


async def test_a_log_that_keeps_records_for_a_time_only_is_told_to_who_builds_views_of_it(
    nats_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = f"t{secrets.token_hex(6)}"
    url = f"{nats_server.url()}?prefix={prefix}"
    await made(url)
    await change_stream(url, f"{prefix}-t-shelved-0", max_age=int((RETENTION_S + 60) * 1e9))

    def told() -> list[str]:
        found = [each.getMessage() for each in caplog.records if "deletes its records" in each.getMessage()]
        caplog.clear()
        return found

    view = View(
        "shelves", version=1, database=f"sqlite:///{tmp_path}/v.db", broker=url, partitions=1,
        engine=EngineConfig(retention_s=RETENTION_S),
    )  # fmt: skip

    @view.on
    async def see(event: Shelved) -> None: ...

    async with view.running():
        [text] = told()
        assert text.startswith(
            "shelves@1: topic t-shelved feeds a view, and the broker deletes its records after 3660 s"
        )
        assert f"in stream {prefix}-t-shelved-0" in text  # what to set, and where
    async with shelf(tmp_path, url).running():
        assert told() == []  # what publishes has kept it for as long as it is to
    await change_stream(url, f"{prefix}-t-shelved-0", max_age=0)
    async with view.running():
        assert told() == []


def test_a_stream_that_forgets_what_was_read_loses_records() -> None:
    """Nobody can make one of ours so: a server does not change that of a stream that is there."""
    for retention in ("interest", "workqueue"):
        assert _terms("s", {"retention": retention}).drops == f"by retention={retention}"
    assert _terms("s", {"retention": "limits"}).drops == ""


async def test_a_stream_that_takes_no_more_when_it_is_full_loses_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    prefix = f"t{secrets.token_hex(6)}"
    url = f"{nats_server.url()}?prefix={prefix}"
    await made(url)
    await change_stream(url, f"{prefix}-t-shelved-0", max_msgs=100, discard="new")
    async with shelf(tmp_path, url).running():
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retention.ms": "3540000"}, "after 3540 s, before Ensue's retention of 3600 s ends"),
        ({"retention.bytes": "1000000"}, "by retention.bytes=1000000"),
        ({"cleanup.policy": "compact"}, "by cleanup.policy=compact"),
        ({"cleanup.policy": "compact,delete"}, "by cleanup.policy=compact,delete"),
    ],
)
async def test_a_kafka_topic_that_loses_records_is_refused_at_the_start(
    kafka_server: KafkaServer, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    prefix = f"t{secrets.token_hex(6)}."
    topic = f"{prefix}t-shelved"
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{kafka_server.port}"})
    await asyncio.to_thread(admin.create_topics([NewTopic(topic, 1, 1, config=settings)])[topic].result, 30)
    url = f"{kafka_server.url()}?timeout_s=30&prefix={prefix}"
    text = await refusal(shelf(tmp_path, url))
    assert f"deletes records of topic t-shelved {said}" in text
    assert topic in text
    kept = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    await asyncio.to_thread(kafka_server.configure, topic, kept)
    async with shelf(tmp_path, url).running():
        pass


async def test_a_rabbitmq_stream_that_loses_records_is_refused_at_the_start(
    rabbitmq_server: RabbitMqServer, tmp_path: Path
) -> None:
    url = f"{rabbitmq_server.url()}?prefix={secrets.token_hex(6)}."
    for _ in ("made", "there already"):
        text = await refusal(shelf(tmp_path, f"{url}&max_age=59m"))
        assert "deletes records of topic t-shelved after 3540 s, before Ensue's retention of 3600 s ends" in text
        assert "delete the stream " in text
        assert "t-shelved.0" in text
    assert await refusal(shelf(tmp_path, url)) == text
    longer = f"{rabbitmq_server.url()}?prefix={secrets.token_hex(6)}.&max_age=1h"
    async with shelf(tmp_path / "other", longer).running():
        pass


async def test_a_redis_that_deletes_partitions_when_it_is_full_is_refused(start: Callable[..., Any]) -> None:
    server = start(RedisServer)
    async with redis.asyncio.Redis.from_url(server.url()) as admin:
        await admin.config_set("maxmemory", "100mb")
        for policy in ("noeviction", "volatile-lru"):
            await admin.config_set("maxmemory-policy", policy)
            await made(server.url())
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(UsageError, match="maxmemory-policy allkeys-lru"):
            await RedisBroker(server.url()).open()


async def test_a_redis_that_writes_nothing_to_disk_is_warned_of(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    await made(start(RedisServer).url())
    assert [each for each in caplog.messages if "writes nothing to disk" in each]
    caplog.clear()
    await made(start(RedisServer, durable=True).url())
    assert not [each for each in caplog.messages if "writes nothing to disk" in each]


def small_nats(start: Callable[..., Any], request: pytest.FixtureRequest) -> str:
    return str(start(NatsServer, settings=["max_payload: 20000"]).url())


def small_stream(start: Callable[..., Any], request: pytest.FixtureRequest) -> str:
    """One of whose streams an operator has given a limit of its own."""
    server: NatsServer = request.getfixturevalue("nats_server")
    prefix = f"t{secrets.token_hex(6)}"
    url = f"{server.url()}?prefix={prefix}"

    async def limited() -> None:
        await made(url)
        await change_stream(url, f"{prefix}-t-shelved-0", max_msg_size=20_000)

    asyncio.run(limited())
    return url


def small_kafka(start: Callable[..., Any], request: pytest.FixtureRequest) -> str:
    server: KafkaServer = request.getfixturevalue("kafka_server")
    topic = f"t{secrets.token_hex(6)}.t-shelved"
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.port}"})
    admin.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": "20000"})])[topic].result(30)
    return f"{server.url()}?timeout_s=30&prefix={topic.removesuffix('t-shelved')}"


@pytest.fixture(params=[small_nats, small_stream, small_kafka], ids=lambda each: each.__name__)
def small(start: Callable[..., Any], request: pytest.FixtureRequest) -> str:
    """The URL of a broker that takes records of 20,000 bytes."""
    return str(request.param(start, request))


async def test_what_the_broker_says_it_refuses_is_refused_where_it_is_published(small: str, tmp_path: Path) -> None:
    service = shelf(tmp_path, small)
    async with service.running(), service.step() as step:
        step.publish(Shelved(number=1, load="x" * 15_000))
        with pytest.raises(EventTooLarge) as caught:
            step.publish(Shelved(number=2, load="x" * 20_000))
        assert caught.value.expected == 20_000


@pytest.mark.parametrize("extensions", [{}, {"note": WIDE * 341}], ids=["plain", "wide"])
async def test_the_largest_that_may_be_published_to_such_a_topic_is_taken(
    small: str, extensions: dict[str, str], tmp_path: Path
) -> None:
    service = shelf(tmp_path, small)
    arrived: asyncio.Queue[int] = asyncio.Queue()

    @service.on
    async def note(event: Shelved) -> None:
        arrived.put_nowait(len(event.load))

    async with service.running():
        async with service.step() as step:
            with pytest.raises(EventTooLarge) as caught:
                step.publish(Shelved(number=1, load="x" * 20_000), extensions)
            largest = 40_000 - caught.value.found
            with pytest.raises(EventTooLarge):
                step.publish(Shelved(number=2, load="x" * (largest + 1)), extensions)
            step.publish(Shelved(number=3, load="x" * largest), extensions)
        async with asyncio.timeout(40):
            assert await arrived.get() == largest


@pytest.mark.parametrize("declared", [True, False])
async def test_what_the_broker_refuses_is_refused_as_well_when_its_topic_has_been_published_to(
    tmp_path: Path, declared: bool
) -> None:
    class Small(MemoryBroker):
        async def ensure_topic(self, topic: str, partitions: int) -> TopicTerms:  # type: ignore[override]
            await super().ensure_topic(topic, partitions)
            return TopicTerms(record_bytes_max=20_000)

    service = Service("shelf", publishes=[Shelved] if declared else None)
    async with bench(tmp_path, service, broker=Small()) as world:
        async with service.step() as step:
            step.publish(Shelved(number=1))
        await world.settle()
        async with service.step() as step:
            with pytest.raises(EventTooLarge) as caught:
                step.publish(Shelved(number=2, load="x" * 20_000))
    assert caught.value.expected == 20_000


async def test_the_stream_that_takes_least_counts_for_its_topic(nats_server: NatsServer) -> None:
    prefix = f"t{secrets.token_hex(6)}"
    url = f"{nats_server.url()}?prefix={prefix}"
    await made(url, 3)
    for number, size in ((0, 30_000), (1, 20_000), (2, 25_000)):
        await change_stream(url, f"{prefix}-t-shelved-{number}", max_msg_size=size)
    terms = await made(url, 3)
    assert terms is not None
    assert terms.record_bytes_max == 20_000
