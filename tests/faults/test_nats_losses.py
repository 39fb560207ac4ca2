"""NATS that loses what it acknowledged: killed, frozen, rolled back, streams gone, records missing or replaced.

The end states are those of published losses (nats-io/nats-server issues 7564: acknowledged before the sync; 6888: a
stream forgotten after kills; 7545: records lost after a change of members), made here with the server's own means.
In each the sender's outbox heals the log, and every event takes effect exactly once and in order.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from servers import NatsCluster, NatsServer
from tests.faults.server_telegraph import SILENT, TOTAL, ServerTelegraph
from tests.faults.test_log_damage import Wired, all_of

from ensue import Service
from ensue.testing import World

#: Reconnecting after a kill has pauses; a cluster takes seconds to choose a leader.
PATIENCE_S = 60.0


class NatsTelegraph(ServerTelegraph):
    """As the others; `others` is a second sender."""

    patience_s = PATIENCE_S

    def __init__(self, directory: Path, server: NatsServer | NatsCluster, options: str = "") -> None:
        super().__init__(directory, server)
        self.prefix = f"t{secrets.token_hex(6)}"
        self.url = f"{server.url()}?prefix={self.prefix}&timeout_s=2{options}"
        self.others = Service("others")

    async def send_from(self, service: Service, start: int, end: int) -> None:
        for number in range(start, end):
            async with service.step() as step:
                step.publish(Wired(station=f"{service.name}-{number % 4}", number=number))

    @property
    def stream(self) -> str:
        return f"{self.prefix}-wires-0"

    @asynccontextmanager
    async def jetstream(self) -> AsyncIterator[JetStreamContext]:
        """The server by nats-py, past the adapter."""
        client = await nats.connect(self.server.url().split(","))
        try:
            yield client.jetstream()
        finally:
            await client.close()


@pytest.fixture
def telegraph(tmp_path: Path, start: Callable[..., Any]) -> NatsTelegraph:
    return NatsTelegraph(tmp_path, start(NatsServer))


# --- the server ends, or stands still, in the middle


@pytest.mark.parametrize("seed", range(3))
async def test_a_server_killed_in_the_middle_of_appends_and_reads_loses_nothing(
    telegraph: NatsTelegraph, seed: int
) -> None:
    await telegraph.kill_again_and_again(seed, 3, lambda: asyncio.to_thread(telegraph.server.start))


async def test_a_server_that_stands_still_delays_and_nothing_else(telegraph: NatsTelegraph) -> None:
    await telegraph.stand_still(3.0)  # timeout_s is 2


# --- an older copy of the store directory (issue 7564)


@pytest.mark.parametrize("read", [0, 30, TOTAL])
async def test_an_older_copy_of_the_store_is_filled_from_the_outbox_again(telegraph: NatsTelegraph, read: int) -> None:
    """read: how many the subscriber had applied when the server went back to its first 20 records."""
    server = telegraph.server
    assert isinstance(server, NatsServer)
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, min(read, 20))
        await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(min(read, 20), 20)
        await world.settle(PATIENCE_S)
    server.stop()
    server.save_data("early")
    server.start()
    if read > 20:
        async with telegraph.running(telegraph.sends, telegraph.receives) as world:
            await telegraph.send(20, read)
            await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(max(read, 20), TOTAL)
        await world.settle(PATIENCE_S)
    server.kill()
    server.restore_data("early")
    server.start()
    assert len(await telegraph.events()) == 20
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)


async def test_a_server_that_goes_back_while_all_run_is_filled_from_the_outbox_again(telegraph: NatsTelegraph) -> None:
    server = telegraph.server
    assert isinstance(server, NatsServer)
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
        await asyncio.to_thread(server.stop)
        server.save_data("early")
        await asyncio.to_thread(server.start)
        await telegraph.send(20, 40)
        await telegraph.until_received(world, 40)
        await asyncio.to_thread(server.kill)
        server.restore_data("early")
        await telegraph.send(40, TOTAL)
        await asyncio.to_thread(server.start)
        await telegraph.ends_well(world)


# --- a stream gone (issue 6888)


async def test_a_stream_deleted_while_all_run_is_made_and_filled_again(telegraph: NatsTelegraph) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
        async with telegraph.jetstream() as jetstream:
            for number, name in enumerate([telegraph.stream, f"{telegraph.prefix}-ensue=2Econtrol-0", None]):
                if name is None:
                    for each in await jetstream.streams_info():
                        await jetstream.delete_stream(str(each.config.name))
                else:
                    await jetstream.delete_stream(name)
                await telegraph.send(20 + number * 10, 30 + number * 10)
                await telegraph.until_received(world, 30 + number * 10)
        await telegraph.ends_well(world, 50)


@pytest.mark.parametrize("read", [0, 25, TOTAL])
async def test_a_stream_that_is_gone_when_all_come_back_is_filled_from_the_outbox(
    telegraph: NatsTelegraph, read: int
) -> None:
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, read)
        await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(read, TOTAL)
        await world.settle(PATIENCE_S)
    async with telegraph.jetstream() as jetstream:
        await jetstream.delete_stream(telegraph.stream)
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)


@pytest.mark.parametrize("beyond", [-15, 0, 15])
async def test_a_stream_made_anew_and_grown_past_what_was_read_is_not_taken_for_the_old_one(
    telegraph: NatsTelegraph, beyond: int
) -> None:
    """Another sender alone made the stream again and filled it; the subscriber's offset lies within it by then."""
    read = 40
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, read)
        await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(read, TOTAL)
        await world.settle(PATIENCE_S)
    async with telegraph.jetstream() as jetstream:
        await jetstream.delete_stream(telegraph.stream)
    count = read + beyond
    async with telegraph.running(telegraph.others, engine=SILENT) as world:
        await telegraph.send_from(telegraph.others, 0, count)
        await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends, telegraph.others, telegraph.receives) as world:
        await telegraph.until_received(world, TOTAL + count)
        await telegraph.send_from(telegraph.others, count, count + 8)
        await telegraph.send(TOTAL, TOTAL + 8)
        await telegraph.until_received(world, TOTAL + count + 16)
        await world.settle(PATIENCE_S)
        assert await telegraph.received() == all_of(TOTAL + 8)
        assert await telegraph.received("others") == {
            f"others-{key}": list(range(key, count + 8, 4)) for key in range(4)
        }


# --- records missing (issue 7545), the last ones replaced, the very last one lost


async def delete(jetstream: JetStreamContext, stream: str, sequences: list[int]) -> None:
    for sequence in sequences:
        await jetstream.delete_msg(stream, sequence)


MISSING: dict[str, list[int]] = {
    "the first": [1],
    "one in the middle": [18],
    "ten in the middle": list(range(21, 31)),
    "every second": list(range(1, TOTAL, 2)),
    "the very last": [TOTAL],
    "the last ten": list(range(TOTAL - 9, TOTAL + 1)),
    "all but the last": list(range(1, TOTAL)),
    "all": list(range(1, TOTAL + 1)),
}


@pytest.mark.parametrize("missing", MISSING)
async def test_records_that_are_missing_come_again_although_the_sender_has_nothing_to_say(
    telegraph: NatsTelegraph, missing: str
) -> None:
    await telegraph.sent()
    async with telegraph.jetstream() as jetstream:
        await delete(jetstream, telegraph.stream, MISSING[missing])
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)
        seen, healed, _ = await telegraph.counters(world)
        assert seen == healed
        if missing not in ("the very last", "the last ten", "all"):  # there a tick may come before the subscriber
            assert seen >= 1


@pytest.mark.parametrize("read", [50, 55, TOTAL])
async def test_the_last_records_replaced_by_others_are_told_from_them(telegraph: NatsTelegraph, read: int) -> None:
    """The log went back to 50 records and grew past 60 with another sender's: the offsets look as if all were well."""
    server = telegraph.server
    assert isinstance(server, NatsServer)
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, 50)
        await world.settle(PATIENCE_S)
    server.stop()
    server.save_data("early")
    server.start()
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(50, read)
        await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends, engine=SILENT) as world:
        await telegraph.send(read, TOTAL)
        await world.settle(PATIENCE_S)
    server.kill()
    server.restore_data("early")
    server.start()
    assert len(await telegraph.events()) == 50
    async with telegraph.running(telegraph.others, engine=SILENT) as world:
        await telegraph.send_from(telegraph.others, 0, 15)
        await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends, telegraph.others, telegraph.receives) as world:
        await telegraph.until_received(world, TOTAL + 15)
        await world.settle(PATIENCE_S)
        assert await telegraph.received("others") == {f"others-{key}": list(range(key, 15, 4)) for key in range(4)}
        assert await telegraph.received() == all_of(TOTAL)


async def test_a_last_record_lost_while_its_source_runs_and_is_silent_is_noticed_by_ticks(
    telegraph: NatsTelegraph,
) -> None:
    async with telegraph.running(telegraph.sends) as world:
        await telegraph.send(0, TOTAL)
        await world.settle(PATIENCE_S)
        async with telegraph.jetstream() as jetstream:
            # Ticks are behind it by now: the last event's place is TOTAL.
            await delete(jetstream, telegraph.stream, [TOTAL])
            async with telegraph.running(telegraph.receives) as other:
                await telegraph.until_received(other, TOTAL)
                assert await telegraph.received() == all_of()


# --- a cluster


async def test_a_leader_killed_under_load_loses_nothing(
    tmp_path: Path, start: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster: NatsCluster = start(NatsCluster)
    telegraph = NatsTelegraph(tmp_path, cluster, "&replicas=3")
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, 40)
        await telegraph.until_received(world, 40)
        async with telegraph.jetstream() as jetstream:
            info = await jetstream.stream_info(telegraph.stream)
        assert info.cluster is not None
        leader = cluster.node(str(info.cluster.leader))

        sent = 40
        stop = asyncio.Event()

        async def load() -> None:
            nonlocal sent
            while not stop.is_set():
                await telegraph.send(sent, sent + 5)
                sent += 5
                await asyncio.sleep(0.01)

        loading = asyncio.create_task(load())
        await until(lambda: _more(telegraph, 80), world)
        await asyncio.to_thread(leader.kill)
        killed_at = time.monotonic()
        at_kill = sum(map(len, (await telegraph.received()).values()))
        committed_at_kill = sent
        # Past what may have been under way: an event that was committed after the kill.
        await until(lambda: _more(telegraph, committed_at_kill + 1), world)
        took = time.monotonic() - killed_at
        with capsys.disabled():
            print(
                f"\nNATS leader killed: the next event committed after it was applied {took:.1f} s later "
                f"({at_kill} applied at the kill, {committed_at_kill} committed)"
            )
        stop.set()
        await loading
        await asyncio.to_thread(leader.start)
        await telegraph.ends_well(world, sent)


async def _more(telegraph: NatsTelegraph, number: int) -> bool:
    return sum(map(len, (await telegraph.received()).values())) >= number


async def until(met: Callable[[], Awaitable[bool]], world: World) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            world._progress.clear()  # before looking: what comes meanwhile is not missed
            if await met():
                break
            await world._progress.wait()
