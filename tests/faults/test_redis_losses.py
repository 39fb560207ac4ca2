"""Redis that loses what it acknowledged: killed without persistence, rolled back, flushed, entries gone.

In each case subscribers notice before they apply the next event, and the sender's outbox heals the log: every event
takes effect exactly once and in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from servers import RedisServer
from tests.faults.server_telegraph import SILENT, TOTAL, ServerTelegraph
from tests.faults.test_log_damage import all_of
from tests.unit.engine.workbench import config


class RedisTelegraph(ServerTelegraph):
    @property
    def stream(self) -> str:
        return f"{self.prefix}wires:0"

    async def redis(self, *command: Any) -> Any:
        async with Redis.from_url(self.server.url()) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def ids(self) -> list[bytes]:
        return [id_ for id_, _ in await self.redis("XRANGE", self.stream, "-", "+")]


@pytest.fixture
def telegraph(tmp_path: Path, start: Callable[..., Any]) -> RedisTelegraph:
    return RedisTelegraph(tmp_path, start(RedisServer))


@pytest.fixture
def durable(tmp_path: Path, start: Callable[..., Any]) -> RedisTelegraph:
    return RedisTelegraph(tmp_path, start(RedisServer, durable=True))


# --- killed in the middle


@pytest.mark.parametrize("seed", range(3))
async def test_a_durable_server_killed_in_the_middle_of_batches_loses_nothing(
    durable: RedisTelegraph, seed: int
) -> None:
    counters = await durable.kill_again_and_again(seed, 3, lambda: asyncio.to_thread(durable.server.start))
    assert counters[0] == counters[1]


@pytest.mark.parametrize("seed", range(3))
async def test_a_server_without_persistence_killed_again_and_again_comes_back_empty_and_is_filled(
    telegraph: RedisTelegraph, seed: int
) -> None:
    await telegraph.kill_again_and_again(seed, 3, lambda: asyncio.to_thread(telegraph.server.start))


async def test_a_server_that_stands_still_delays_and_nothing_else(telegraph: RedisTelegraph) -> None:
    await telegraph.stand_still(4.0)  # timeout_s is 3


# --- emptied and rolled back


@pytest.mark.parametrize("read", [0, 25, TOTAL])
async def test_a_server_that_comes_back_empty_while_all_were_down_is_filled_from_the_outbox(
    telegraph: RedisTelegraph, read: int
) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, read)
        await telegraph.until_received(world, read)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(read, TOTAL)
        await world.settle(30)
    assert len(await telegraph.events()) == TOTAL
    await asyncio.to_thread(telegraph.server.kill)
    await asyncio.to_thread(telegraph.server.start)
    assert await telegraph.redis("DBSIZE") == 0
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)


async def test_a_server_rolled_back_to_an_older_copy_is_healed(durable: RedisTelegraph) -> None:
    """The subscriber has applied 20 more than the copy holds, and has not seen the last 20."""
    async with durable.running(durable.sends, engine=SILENT) as world:
        await durable.send(0, 20)
        await world.settle(30)
    await asyncio.to_thread(durable.server.stop)
    durable.server.save_data("early")
    await asyncio.to_thread(durable.server.start)
    async with durable.running(durable.sends, durable.receives) as world:
        await durable.send(20, 40)
        await durable.until_received(world, 40)
    async with durable.running(durable.sends, engine=SILENT) as world:
        await durable.send(40, TOTAL)
        await world.settle(30)
    await asyncio.to_thread(durable.server.kill)
    durable.server.restore_data("early")
    await asyncio.to_thread(durable.server.start)
    assert len(await durable.events()) == 20
    async with durable.running(durable.sends, durable.receives) as world:
        await durable.ends_well(world)


async def test_a_server_rolled_back_while_all_run_is_healed_although_the_sender_is_silent(
    durable: RedisTelegraph,
) -> None:
    async with durable.running(durable.sends, durable.receives) as world:
        await durable.send(0, 20)
        await durable.until_received(world, 20)
        await asyncio.to_thread(durable.server.stop)
        durable.server.save_data("early")
        await asyncio.to_thread(durable.server.start)
        await durable.send(20, TOTAL)
        await durable.until_received(world, TOTAL)
        await asyncio.to_thread(durable.server.kill)
        durable.server.restore_data("early")
        await asyncio.to_thread(durable.server.start)
        await durable.ends_well(world)


async def test_a_database_flushed_again_and_again_while_all_run_is_filled_from_the_outbox(
    telegraph: RedisTelegraph,
) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        for begin in range(0, TOTAL, 10):
            await telegraph.send(begin, begin + 10)
            await telegraph.redis("FLUSHALL")
        await telegraph.ends_well(world)


async def test_a_database_flushed_with_its_last_record_unread_is_filled_although_nobody_says_anything(
    telegraph: RedisTelegraph,
) -> None:
    """No connection breaks and no tick would come in time: the sender must find out that the log is another one."""
    engine = config(tick_first_s=0.05, tick_max_s=3600.0)
    async with telegraph.running(telegraph.sends, engine=engine) as world:
        await telegraph.send(0, 20)
        await world.settle(30)
        await world.runtimes["sends"].store.outbox_wait(0.5)  # it falls silent
        await telegraph.redis("FLUSHALL")
        async with telegraph.running(telegraph.receives, engine=engine) as other:
            await telegraph.until_received(other, 20)
            assert await telegraph.received() == all_of(20)


# --- entries gone, doubled, foreign


async def drop_the_first(telegraph: RedisTelegraph) -> None:
    await telegraph.redis("XDEL", telegraph.stream, (await telegraph.ids())[0])


async def drop_the_middle(telegraph: RedisTelegraph) -> None:
    await telegraph.redis("XDEL", telegraph.stream, *(await telegraph.ids())[10:30])


async def drop_the_last(telegraph: RedisTelegraph) -> None:
    await telegraph.redis("XDEL", telegraph.stream, *(await telegraph.ids())[-5:])


async def trim_everything(telegraph: RedisTelegraph) -> None:
    await telegraph.redis("XTRIM", telegraph.stream, "MAXLEN", "0")


async def delete_the_stream(telegraph: RedisTelegraph) -> None:
    await telegraph.redis("DEL", telegraph.stream)


async def forget_the_topics(telegraph: RedisTelegraph) -> None:
    await telegraph.redis("DEL", f"{telegraph.prefix}ensue:topics", f"{telegraph.prefix}ensue:log")


async def write_as_a_stranger(telegraph: RedisTelegraph) -> None:
    await telegraph.redis("XADD", telegraph.stream, "*", "what", b"\xff", "data", "?")


DAMAGE: list[Callable[[RedisTelegraph], Awaitable[None]]] = [
    drop_the_first, drop_the_middle, drop_the_last, trim_everything, delete_the_stream, forget_the_topics,
    write_as_a_stranger,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("read", [0, 25])
async def test_whatever_was_done_to_the_stream_each_record_takes_effect_once_in_order(
    telegraph: RedisTelegraph, damage: Callable[[RedisTelegraph], Awaitable[None]], read: int
) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, read)
        await telegraph.until_received(world, read)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(read, TOTAL)
        await world.settle(30)
    await damage(telegraph)
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)
