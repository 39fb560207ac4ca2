"""The log in PostgreSQL when the server goes, comes back, commits asynchronously, or has lost the log."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

import pytest
from servers import PostgresServer
from servers.base import free_port
from servers.proxy import TcpProxy
from tests.unit.brokers.opened import patiently, with_topic

from ensue.brokers.postgres import PostgresBroker
from ensue.conformance.broker import SOURCE, TOPIC, entries, positions, read
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Garbage, Message

PATIENCE_S = 20.0


def opened(url: str, partitions: int = 2) -> AbstractAsyncContextManager[PostgresBroker]:
    return with_topic(PostgresBroker(url), partitions)


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return f"{postgres_server.url()}?schema=log_{uuid.uuid4().hex}"


def schema_of(url: str) -> str:
    return url.partition("schema=")[2]


async def test_a_server_that_is_down_is_unavailable_within_its_time_and_no_password_is_told() -> None:
    broker = PostgresBroker(f"postgresql://ann:s3cret@127.0.0.1:{free_port()}/shop?timeout_s=2")
    began = time.monotonic()
    for attempt in (broker.open, broker.exists):
        with pytest.raises(BrokerUnavailable) as caught:
            await attempt()
        assert "s3cret" not in f"{caught.value} {caught.value.values} {caught.value.__cause__}"
        assert "127.0.0.1" in str(caught.value)
    assert time.monotonic() - began < PATIENCE_S
    await broker.close()


async def test_a_line_that_is_silent_ends_an_append_after_its_time(postgres_server: PostgresServer) -> None:
    async with TcpProxy(postgres_server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?schema=log_{uuid.uuid4().hex}&timeout_s=0.5"
        async with opened(url) as broker:
            await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
            proxy.freeze()
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(BrokerUnavailable):
                    await broker.append(TOPIC, 0, SOURCE, entries(2, 1))
            proxy.heal()
            await patiently(lambda: broker.append(TOPIC, 0, SOURCE, entries(2, 1)))
            found = positions(await read(broker, TOPIC, 0, 0, 10, 0.0))
            assert found in ([1, 2], [1, 2, 2])  # the silent one may have arrived


async def test_a_waiting_read_goes_on_over_a_cut_line(postgres_server: PostgresServer) -> None:
    schema = f"log_{uuid.uuid4().hex}"
    async with (
        TcpProxy(postgres_server.port) as proxy,
        opened(f"{postgres_server.url()}?schema={schema}") as writer,
        opened(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?schema={schema}") as reader,
    ):
        waiting = asyncio.create_task(patiently(lambda: read(reader, TOPIC, 0, 0, 10, PATIENCE_S)))
        await asyncio.sleep(0.05)
        await proxy.cut()
        await writer.append(TOPIC, 0, SOURCE, entries(1, 1))
        proxy.heal()
        async with asyncio.timeout(PATIENCE_S):
            assert positions(await waiting) == [1]


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_appends_and_reads_go_on_after_the_server_was_gone_in_the_middle(
    start: Callable[..., Any], end: str
) -> None:
    """Nothing that was acknowledged is lost, and a reader misses nothing."""
    server: PostgresServer = start(PostgresServer)
    acknowledged: list[int] = []
    found: list[Message | Garbage] = []
    async with opened(server.url()) as broker, opened(server.url()) as reader:

        async def write() -> None:
            for position in range(1, 61):
                await patiently(lambda: broker.append(TOPIC, 0, SOURCE, entries(position, 1)))  # noqa: B023
                acknowledged.append(position)
                if position == 20:
                    halfway.set()

        async def follow() -> None:
            after = 0
            while not found or positions(found)[-1] < 60:
                batch = await patiently(lambda: read(reader, TOPIC, 0, after, 7, 1.0))  # noqa: B023
                found.extend(batch)
                after = batch[-1].offset if batch else after

        halfway = asyncio.Event()
        async with asyncio.timeout(3 * PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(write())
            group.create_task(follow())
            await halfway.wait()
            if end == "kill":
                await asyncio.to_thread(server.kill)
            else:
                await asyncio.to_thread(server.stop)
            server.spawn()
            await server.ready()
    assert sorted(set(positions(found))) == acknowledged == list(range(1, 61))
    assert [record.offset for record in found] == list(range(1, len(found) + 1)), "offsets of one partition are dense"


async def test_a_listener_that_lost_its_connection_hears_again(postgres_server: PostgresServer, url: str) -> None:
    async with opened(url) as writer, opened(url) as reader:
        postgres_server.psql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ensue broker' "
            f"AND query LIKE '%LISTEN%{schema_of(url)}%'",
        )
        for position in (1, 2, 3):
            waiting = asyncio.create_task(read(reader, TOPIC, 0, position - 1, 10, PATIENCE_S))
            await asyncio.sleep(0.05)
            await patiently(lambda: writer.append(TOPIC, 0, SOURCE, entries(position, 1)))  # noqa: B023
            async with asyncio.timeout(PATIENCE_S):
                assert positions(await waiting) == [position]


async def test_an_acknowledged_append_survives_a_crash_where_the_database_commits_asynchronously(
    start: Callable[..., Any],
) -> None:
    """With `synchronous_commit = off` a crash takes the last commits; an acknowledged append is not among them."""
    settings = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    server: PostgresServer = start(PostgresServer, durable=True, settings=settings)
    broker = PostgresBroker(server.url())
    await broker.open()
    await broker.ensure_topic(TOPIC, 1)
    for position in range(1, 20):
        await broker.append(TOPIC, 0, SOURCE, entries(position, 1))
    server.kill()
    await broker.close()
    server.start()
    async with opened(server.url(), partitions=1) as again:
        assert positions(await read(again, TOPIC, 0, 0, 100, 0.0)) == list(range(1, 20))
    assert server.psql("postgres", "SHOW synchronous_commit") == "off"


async def test_a_log_that_was_dropped_is_told_once_and_made_again(postgres_server: PostgresServer, url: str) -> None:
    async with opened(url) as broker, opened(url) as other:
        await broker.ensure_topic("customers", 3)
        await broker.append(TOPIC, 1, SOURCE, entries(1, 5))
        waiting = asyncio.create_task(read(other, TOPIC, 1, 5, 10, PATIENCE_S))
        await asyncio.sleep(0.05)
        postgres_server.psql("postgres", f"DROP SCHEMA {schema_of(url)} CASCADE")
        with pytest.raises(BrokerUnavailable, match="dropped or replaced"):
            await broker.append(TOPIC, 1, SOURCE, entries(6, 1))
        # Made again by somebody else first, in another order: an id that is remembered must not lead elsewhere.
        async with opened(url) as third:
            await third.ensure_topic("customers", 3)
        assert await patiently(lambda: broker.append(TOPIC, 1, SOURCE, entries(6, 1))) == 1
        assert await broker.topics() == {TOPIC: 2, "customers": 3}
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(BrokerUnavailable):
                await waiting
        assert positions(await patiently(lambda: read(other, TOPIC, 1, 0, 10, 0.0))) == [6]


async def test_a_waiting_read_notices_that_its_partition_is_another_one(
    postgres_server: PostgresServer, url: str
) -> None:
    async with opened(url) as broker:
        waiting = asyncio.create_task(read(broker, TOPIC, 0, 0, 10, PATIENCE_S))
        await asyncio.sleep(0.05)
        postgres_server.psql("postgres", f"DROP SCHEMA {schema_of(url)} CASCADE")
        async with opened(url):
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(BrokerUnavailable, match="dropped or replaced"):
                    await waiting
            assert list(await read(broker, TOPIC, 0, 0, 10, 0.0)) == []


async def test_a_log_and_tables_of_stores_live_in_one_database(postgres_server: PostgresServer, url: str) -> None:
    schema = schema_of(url)
    elsewhere = (
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE nspname <> '{schema}' AND nspname !~ '^pg_(toast|temp)' ORDER BY 1"
    )
    before = postgres_server.psql("postgres", elsewhere)
    async with opened(url) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
        after = postgres_server.psql("postgres", elsewhere)
        assert after == before, "nothing of the log stands outside its schema"
        shown = postgres_server.psql("postgres", f'SELECT topic, partition, "offset", key, source FROM {schema}.log')
        assert shown == f"{TOPIC}|0|1|key|{SOURCE}"


async def test_a_wrong_password_or_database_is_the_operators(postgres_server: PostgresServer) -> None:
    broker = PostgresBroker(f"postgresql://postgres:s3cret@127.0.0.1:{postgres_server.port}/nobody_made_this")
    with pytest.raises(UsageError, match="nobody_made_this") as caught:
        await broker.open()
    assert "s3cret" not in str(caught.value)
    assert not await broker.exists()
    await broker.close()


async def test_asking_whether_there_is_a_log_makes_none(postgres_server: PostgresServer, url: str) -> None:
    broker = PostgresBroker(url)
    assert not await broker.exists()
    assert postgres_server.psql("postgres", f"SELECT 1 FROM pg_namespace WHERE nspname = '{schema_of(url)}'") == ""
    await broker.open()
    assert await broker.exists()
    await broker.close()
    assert await broker.exists()


async def test_tables_of_another_version_are_refused(postgres_server: PostgresServer, url: str) -> None:
    async with opened(url):
        pass
    postgres_server.psql("postgres", f"UPDATE {schema_of(url)}.version SET version = 99")
    broker = PostgresBroker(url)
    with pytest.raises(UsageError, match="version 99, expected 1"):
        await broker.open()
    await broker.close()


async def test_a_read_stops_after_eight_megabytes_and_a_large_append_goes_in_pieces(url: str) -> None:
    async with opened(url) as broker:
        batch = entries(1, 12)
        for each in batch:
            each.data = b"x" * 2_000_000
        assert await broker.append(TOPIC, 0, SOURCE, batch) == 12
        found: list[Message | Garbage] = []
        sizes = []
        while len(found) < 12:
            part = await read(broker, TOPIC, 0, len(found), 500, 0.0)
            sizes.append(len(part))
            found += part
        assert positions(found) == list(range(1, 13))
        assert max(sizes) == 5  # the one that passes 8 MB is the last


async def test_many_writers_over_the_same_partitions_in_any_order_never_deadlock(url: str) -> None:
    async with opened(url, partitions=6) as broker:

        async def write(writer: int) -> None:
            for round_ in range(15):
                numbers = [(writer * 7 + round_ * 5 + step * (1 + writer % 5)) % 6 for step in range(6)]
                await broker.append_many(f"{writer}/1", {(TOPIC, n): entries(round_ + 1, 2) for n in set(numbers)})

        async with asyncio.timeout(3 * PATIENCE_S), asyncio.TaskGroup() as group:
            for writer in range(8):
                group.create_task(write(writer))
        for number in range(6):
            records = await read(broker, TOPIC, number, 0, 10_000, 0.0)
            assert [record.offset for record in records] == list(range(1, len(records) + 1))


async def test_two_that_prune_at_once_take_each_record_once(url: str) -> None:
    async with opened(url) as broker, opened(url) as other:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 100))
        taken = await asyncio.gather(
            *(each.prune(TOPIC, 0, time.time() + 3600, 60) for each in (broker, other, broker, other))
        )
        left = positions(await read(broker, TOPIC, 0, 0, 1000, 0.0))
        assert left == list(range(101 - len(left), 101))
        assert sum(taken) + len(left) == 100


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("schema=", "schema"),
        ("schema=" + "x" * 64, "63"),
        ("pool_size=none", "pool_size"),
        ("pool_size=0", "pool_size"),
        ("timeout_s=-1", "timeout_s"),
        ("pgbouncer=perhaps", "pgbouncer"),
    ],
)
def test_an_option_that_cannot_be_is_named(query: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        PostgresBroker(f"postgresql://ann:s3cret@host/shop?{query}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3/cret@host/x",
        "postgresql://ann:s3#cret@host/x",
        "postgresql://ann:s3cret?@h/x",
        "postgresql://host:s3cret/x",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_and_not_told(url: str) -> None:
    with pytest.raises(UsageError, match="percent-encoded") as caught:
        PostgresBroker(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_any_name_will_do_for_a_schema(postgres_server: PostgresServer) -> None:
    name = f'it\'s 100% "mine" {uuid.uuid4().hex[:8]}'
    async with opened(f"{postgres_server.url()}?schema={quote(name)}") as broker:
        waiting = asyncio.create_task(read(broker, TOPIC, 0, 0, 10, PATIENCE_S))
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
        assert positions(await waiting) == [1]


async def test_two_systems_with_prefixes_share_a_schema_and_do_not_see_each_other(url: str) -> None:
    async with opened(f"{url}&prefix=red.") as red, opened(f"{url}&prefix=blue.", partitions=3) as blue:
        await red.append(TOPIC, 0, SOURCE, entries(1, 2))
        assert await red.topics() == {TOPIC: 2}
        assert await blue.topics() == {TOPIC: 3}
        assert list(await read(blue, TOPIC, 0, 0, 10, 0.0)) == []
        [first, _] = await read(red, TOPIC, 0, 0, 10, 0.0)
        assert first.topic == TOPIC
