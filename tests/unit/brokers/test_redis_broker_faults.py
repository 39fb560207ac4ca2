"""What the broker on Redis does beside the port: strangers on its streams, rights, limits, a server that is away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from servers import RedisServer
from servers.base import free_port
from servers.proxy import TcpProxy
from tests.unit.brokers.opened import patiently, with_topic

from ensue.brokers.redis import RedisBroker
from ensue.brokers.redis.broker import READ_BYTES_MAX
from ensue.conformance.broker import SOURCE, TOPIC, entries, entry, positions, read
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Garbage, Message

PATIENCE_S = 20.0


def opened(url: str, **options: Any) -> AbstractAsyncContextManager[RedisBroker]:
    return with_topic(RedisBroker(url, **options), 2)


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return f"{redis_server.url()}?prefix={secrets.token_hex(6)}:"


def key_of(url: str, partition: int = 0) -> str:
    return f"{url.partition('prefix=')[2].partition('&')[0]}{TOPIC}:{partition}"


@asynccontextmanager
async def stranger(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url()) as client:
        yield client


# --- strangers


async def test_a_strangers_event_with_an_id_by_the_clock_is_read_in_its_place_and_stops_nobody(
    redis_server: RedisServer, url: str
) -> None:
    async with opened(url) as broker, stranger(redis_server) as client:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 2))
        event: dict[Any, Any] = {
            "ce_specversion": "1.0",
            "ce_id": "x-1",
            "ce_source": "/elsewhere",
            "ce_type": "Foreign",
            "data": b"!",
        }
        await client.xadd(key_of(url), {**event, "ce_colour": "blue"})
        await client.xadd(key_of(url), {**event, "ce_id": "x-2"})
        last = await broker.append(TOPIC, 0, SOURCE, entries(3, 1))
        found = await read(broker, TOPIC, 0, 0, 100, 0.0)
        assert [each.offset for each in found] == sorted({each.offset for each in found})
        assert all(isinstance(each, Message) for each in found)
        assert [each.id for each in found if isinstance(each, Message)] == ["id-1", "id-2", "x-1", "x-2", "id-3"]
        foreign = found[2]
        assert isinstance(foreign, Message)
        assert (foreign.position, foreign.source, foreign.data) == (0, "/elsewhere", b"!")
        assert foreign.envelope.extensions == {"colour": "blue"}
        assert (found[-1].offset, (await broker.bounds(TOPIC, 0)).last) == (last, last)


async def test_what_a_stranger_writes_among_the_topics_is_none(redis_server: RedisServer, url: str) -> None:
    async with opened(url) as broker, stranger(redis_server) as client:
        for topic, count in (("text", "many"), ("huge", str(10**30)), ("negative", "-1"), (b"\xff", "")):
            await client.hset(broker._topics_key, topic, count)
        assert await broker.topics() == {TOPIC: 2}
        assert await broker.partitions("text") == 0
        with pytest.raises(UsageError, match="has b'many' for topic text, expected a number of partitions"):
            await broker.ensure_topic("text", 1)


async def test_a_waiting_read_is_woken_by_a_stranger(redis_server: RedisServer, url: str) -> None:
    async with opened(url) as broker, stranger(redis_server) as client:
        reading = asyncio.create_task(read(broker, TOPIC, 1, 0, 10, PATIENCE_S))
        await asyncio.sleep(0.05)  # time to begin to wait
        await client.xadd(key_of(url, 1), {"hello": "world"})
        async with asyncio.timeout(PATIENCE_S):
            [garbage] = await reading
        assert isinstance(garbage, Garbage)
        assert "ce_specversion" in garbage.reason


async def test_offsets_are_never_given_again_when_a_stranger_and_all_records_are_gone(
    redis_server: RedisServer, url: str
) -> None:
    async with opened(url) as broker, stranger(redis_server) as client:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 20))
        await client.xadd(key_of(url), {"hello": "world"})
        await client.xtrim(key_of(url), maxlen=0, approximate=False)
        assert (await broker.bounds(TOPIC, 0)).last >= last
        assert await broker.append(TOPIC, 0, SOURCE, entries(21, 1)) > last


async def test_a_position_that_is_no_number_is_garbage(redis_server: RedisServer, url: str) -> None:
    event: dict[Any, Any] = {"ce_specversion": "1.0", "ce_id": "x", "ce_source": "s", "ce_type": "t", "data": "d"}
    async with opened(url) as broker, stranger(redis_server) as client:
        for position in ("-1", "\u0661", "9" * 30, ""):
            await client.xadd(key_of(url), {**event, "ce_ensueposition": position}, id="0-*")
        found = await read(broker, TOPIC, 0, 0, 10, 0.0)
        assert [type(each) for each in found] == [Garbage, Garbage, Garbage, Garbage]


# --- retention and limits


async def test_retention_goes_by_the_time_of_the_append(redis_server: RedisServer, url: str) -> None:
    now = 1000.0
    async with opened(url, now=lambda: now) as broker, stranger(redis_server) as client:
        for first in (1, 3, 5):
            await broker.append(TOPIC, 0, SOURCE, entries(first, 2))
            now += 10
        assert await broker.prune(TOPIC, 0, 1010.0, 100) == 2
        assert await broker.prune(TOPIC, 0, 1010.1, 1) == 1
        assert positions(await read(broker, TOPIC, 0, 0, 10, 0.0)) == [4, 5, 6]
        await client.xadd(key_of(url), {"no": "time"}, id="0-*")
        await broker.append(TOPIC, 0, SOURCE, entries(7, 1))
        assert await broker.prune(TOPIC, 0, 1025.0, 100) == 4  # the stranger's counts as old as the one before it
        assert positions(await read(broker, TOPIC, 0, 0, 10, 0.0)) == [7]


async def test_more_than_one_chunk_is_pruned_and_no_more_than_the_limit(url: str) -> None:
    async with opened(url) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 700))
        assert await broker.prune(TOPIC, 0, time.time() + 60, 501) == 501
        assert (await broker.bounds(TOPIC, 0)).first == 502


async def test_a_read_stops_when_it_has_much_data(url: str) -> None:
    body = b"x" * (READ_BYTES_MAX // 3)
    async with opened(url) as broker:
        await broker.append(TOPIC, 0, SOURCE, [entry(number, data=body) for number in range(1, 6)])
        found = await read(broker, TOPIC, 0, 0, 100, 0.0)
        assert 1 <= len(found) < 5
        rest = await read(broker, TOPIC, 0, found[-1].offset, 100, 0.0)
        assert positions([*found, *rest]) == [1, 2, 3, 4, 5]


# --- rights, durability, a server that is away


async def test_durability_is_what_the_server_says(start: Callable[..., Any], url: str) -> None:
    durable = start(RedisServer, durable=True)
    async with opened(durable.url()) as broker:
        assert broker.capabilities.power_loss_safe
    async with opened(url) as broker:
        assert not broker.capabilities.power_loss_safe


async def test_an_account_without_administration_rights_works(redis_server: RedisServer, url: str) -> None:
    user = f"u{secrets.token_hex(4)}"
    async with stranger(redis_server) as client:
        await client.execute_command(  # type: ignore[no-untyped-call]
            "ACL", "SETUSER", user, "on", ">s3cret", "~*", "+@all", "-@dangerous", "-client|unblock"
        )
    place, _, options = url.partition("//")[2].partition("?")
    async with opened(f"redis://{user}:s3cret@{place}?{options}") as broker:
        assert not broker.capabilities.power_loss_safe
        reading = [asyncio.create_task(read(broker, TOPIC, number, 0, 10, PATIENCE_S)) for number in (0, 1)]
        await asyncio.sleep(0.05)  # time to begin to wait
        late = asyncio.create_task(read(broker, TOPIC, 1, 0, 10, PATIENCE_S))
        await broker.append_many(SOURCE, {(TOPIC, 0): entries(1, 1), (TOPIC, 1): entries(2, 1)})
        async with asyncio.timeout(PATIENCE_S):
            assert [positions(each) for each in await asyncio.gather(*reading, late)] == [[1], [2], [2]]


async def test_a_server_that_is_down_is_unavailable_within_its_time_and_no_password_is_told() -> None:
    broker = RedisBroker(f"redis://ann:s3cret@127.0.0.1:{free_port()}/0?timeout_s=1")
    for attempt in (broker.open, broker.exists):
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            await attempt()
        assert time.monotonic() - began < 5
        assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"
        assert "ann" not in str(caught.value)


async def test_a_refused_password_says_so(redis_server: RedisServer) -> None:
    broker = RedisBroker(f"redis://nobody:wr0ng@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(UsageError, match="refuses the user or password") as caught:
        await broker.open()
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("option", ["timeout_s=soon", "timeout_s=0", "ssl_nonsense=1"])
async def test_an_option_that_is_wrong_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        await RedisBroker(f"redis://127.0.0.1:1/0?{option}").open()


async def test_a_line_that_is_silent_ends_calls_in_their_time_and_heals(redis_server: RedisServer) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0?prefix={secrets.token_hex(6)}:&timeout_s=1"
        async with opened(url) as broker:
            waiting = asyncio.create_task(read(broker, TOPIC, 0, 0, 10, PATIENCE_S))
            await asyncio.sleep(0.05)  # time to begin to wait
            proxy.freeze()
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(BrokerUnavailable):
                    await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
                await asyncio.wait((waiting,))
            proxy.heal()
            await patiently(lambda: broker.append(TOPIC, 0, SOURCE, entries(1, 1)))
            found = await patiently(lambda: read(broker, TOPIC, 0, 0, 10, 1.0))
            assert set(positions(found)) == {1}
            await asyncio.gather(waiting, return_exceptions=True)


async def test_a_server_restarted_under_a_waiting_read_ends_it_with_an_error(start: Callable[..., Any]) -> None:
    server = start(RedisServer, durable=True)
    async with opened(f"{server.url()}?timeout_s=2") as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        waiting = asyncio.create_task(read(broker, TOPIC, 0, 3, 10, PATIENCE_S))
        await asyncio.sleep(0.05)  # time to begin to wait
        await asyncio.to_thread(server.kill)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(BrokerUnavailable):
                await waiting
        await asyncio.to_thread(server.start)
        last = await patiently(lambda: broker.append(TOPIC, 0, SOURCE, entries(4, 1)))
        assert last == 4
        assert positions(await patiently(lambda: read(broker, TOPIC, 0, 0, 10, 0.0))) == [1, 2, 3, 4]


async def test_calls_cancelled_at_any_moment_leave_a_working_broker(url: str) -> None:
    async with opened(url) as broker:
        for number in range(60):
            calls: list[asyncio.Task[Any]] = [
                asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(1, 1))),
                asyncio.create_task(read(broker, TOPIC, 1, 0, 10, 5.0)),
                asyncio.create_task(broker.bounds(TOPIC, 0)),
            ]
            await asyncio.sleep(number * 0.0002)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls, timeout=PATIENCE_S)
            assert all(call.done() for call in calls), f"round {number}"
        last = await broker.append(TOPIC, 1, SOURCE, entries(1, 5))
        assert positions(await read(broker, TOPIC, 1, 0, 10, 0.0)) == [1, 2, 3, 4, 5]
        assert (await broker.bounds(TOPIC, 1)).last == last
