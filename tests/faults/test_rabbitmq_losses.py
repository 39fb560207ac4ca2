"""RabbitMQ that is killed, stands still, loses streams or comes back as another: the outbox heals the log.

In each case every event takes effect exactly once and in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import aio_pika
import pytest
from aiormq.exceptions import ConnectionInternalError
from servers import RabbitMqServer
from tests.conftest import started
from tests.faults.server_telegraph import SILENT, TOTAL, ServerTelegraph
from tests.faults.test_log_damage import all_of
from tests.unit.engine.workbench import config

#: A server that is just electing its coordinator takes seconds.
DELETED_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMqServer]:
    """One for this file, since it takes seconds to start; each test has streams of its own on it."""
    yield from started(RabbitMqServer)


class RabbitTelegraph(ServerTelegraph):
    def stream(self, number: int = 0) -> str:
        return f"{self.prefix}wires.{number}"

    async def delete(self, *queues: str) -> None:
        async with asyncio.timeout(DELETED_S):
            for queue in queues:
                while not await self._deleted(queue):  # noqa: ASYNC110  # the server tells nobody when it is able to
                    await asyncio.sleep(0.1)

    async def _deleted(self, queue: str) -> bool:
        """False: what coordinates the server's streams was just busy, so that it closed the connection (seen with
        3.10)."""
        try:
            async with await aio_pika.connect(self.server.url()) as connection:
                channel = await connection.channel()
                await channel.queue_delete(queue)
        except ConnectionInternalError as error:
            if "coordinator_unavailable" not in str(error):
                raise
            return False
        return True


@pytest.fixture
def telegraph(tmp_path: Path, server: RabbitMqServer) -> RabbitTelegraph:
    return RabbitTelegraph(tmp_path, server)


# --- the server ends, or stands still, in the middle


async def test_a_server_killed_in_the_middle_of_batches_loses_nothing(telegraph: RabbitTelegraph) -> None:
    server = telegraph.server

    async def start() -> None:
        server.spawn()
        await server.ready()

    async with telegraph.running(telegraph.sends, telegraph.receives):
        await server.remembers_streams()
    seen, healed, _ = await telegraph.kill_again_and_again(7, 2, start, within_s=0.1)
    assert seen == healed


async def test_a_server_that_stands_still_delays_and_nothing_else(telegraph: RabbitTelegraph) -> None:
    await telegraph.stand_still(4.0)  # timeout_s is 3


# --- streams gone


@pytest.mark.parametrize("read", [0, 25])
async def test_a_stream_deleted_while_all_were_down_is_made_again_and_filled(
    telegraph: RabbitTelegraph, read: int
) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, read)
        await telegraph.until_received(world, read)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(read, TOTAL)
        await world.settle(30)
    assert len(await telegraph.events()) == TOTAL
    await telegraph.delete(telegraph.stream())
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)


async def test_a_stream_deleted_again_and_again_while_all_run_is_filled_from_the_outbox(
    telegraph: RabbitTelegraph,
) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        for begin in range(0, TOTAL, 20):
            await telegraph.send(begin, begin + 20)
            await telegraph.delete(telegraph.stream())
        await telegraph.ends_well(world)


async def test_a_stream_that_a_stranger_made_again_empty_is_filled(telegraph: RabbitTelegraph) -> None:
    """Nothing tells us: the queue is there, and has no marker."""
    await telegraph.sent()
    await telegraph.delete(telegraph.stream())
    connection = await aio_pika.connect(telegraph.server.url())
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue(telegraph.stream(), durable=True, arguments={"x-queue-type": "stream"})
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)


async def test_all_streams_and_the_topics_deleted_while_all_run_are_made_again(telegraph: RabbitTelegraph) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
        prefix = telegraph.prefix
        await telegraph.delete(f"{prefix}ensue.topics", f"{prefix}ensue.control.0", telegraph.stream())
        await telegraph.send(20, TOTAL)
        await telegraph.ends_well(world)


async def test_a_stream_deleted_with_its_last_record_unread_is_filled_although_nobody_says_anything(
    telegraph: RabbitTelegraph,
) -> None:
    """The sender is silent, and ticks ever more seldom: its next one finds the stream gone and makes it."""
    engine = config(tick_first_s=0.05, tick_max_s=2.0)
    async with telegraph.running(telegraph.sends, engine=engine) as world:
        await telegraph.send(0, 20)
        await world.settle(30)
        await telegraph.delete(telegraph.stream())
        async with telegraph.running(telegraph.receives, engine=engine) as other:
            await telegraph.until_received(other, 20)
            assert await telegraph.received() == all_of(20)


# --- another server in its place


async def test_a_server_rolled_back_to_an_older_copy_is_healed(
    tmp_path: Path, start: Callable[..., RabbitMqServer]
) -> None:
    """The subscriber has applied 20 more than the copy holds, and has not seen the last 20; then all is gone."""
    server = start(RabbitMqServer)
    telegraph = RabbitTelegraph(tmp_path, server)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(0, 20)
        await world.settle(30)
    await asyncio.to_thread(server.stop)
    server.save_data("early")
    await asyncio.to_thread(server.start)
    await (await telegraph.opened()).close()
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(20, 40)
        await telegraph.until_received(world, 40)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(40, TOTAL)
        await world.settle(30)
    await asyncio.to_thread(server.kill)
    server.restore_data("early")
    await asyncio.to_thread(server.start)
    assert len(await telegraph.events()) == 20
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)
        await asyncio.to_thread(server.kill)
        server.wipe_data()
        server.spawn()
        await server.ready()
        await telegraph.ends_well(world, TOTAL + 8)
