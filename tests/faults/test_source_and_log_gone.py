"""A database that is put back from an old copy while the log is gone too: a subscriber is the only one who knows."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import NatsServer
from tests.faults.test_log_damage import Telegraph, Wired
from tests.faults.test_restored_store import copy, live, not_working, put_back, refusal
from tests.unit.engine.workbench import LIMIT_S, bench, config

from ensue import UsageError
from ensue.adapters import make_broker
from ensue.codec import decode_envelope, encode_envelope
from ensue.engine.ask import ResendRequest, say_seen
from ensue.engine.clock import SystemClock, UniqueIds
from ensue.engine.epoch import Published, begin_epoch, find_published
from ensue.engine.gauges import DOUBTED, measure
from ensue.engine.hallmark import HallmarkedIds
from ensue.engine.witness import examine
from ensue.message import TICK, Checkpoint, Envelope, OutboxRecord, Partition
from ensue.ports import Broker, Store
from ensue.seal import sealed
from ensue.stores.sqlite import SqliteStore
from ensue.testing import World

#: Long enough for a subscriber that starts at the same time; whoever knows something ends the waiting.
ENGINE = config(resend_interval_s=2.0)


@pytest.fixture
def telegraph(tmp_path: Path) -> Telegraph:
    return Telegraph(tmp_path)


def empty_log(telegraph: Telegraph) -> None:
    for path in telegraph.directory.glob("broker.db*"):
        path.unlink()


async def write(telegraph: Telegraph, start: int, end: int) -> None:
    """Steps commit while no relay runs."""
    async with telegraph.sends.running(not_working(telegraph), work=False):
        await telegraph.send(start, end)


async def new_epoch(telegraph: Telegraph, broker: Broker, decided: int | None = None) -> Published:
    """What `ensue db new-epoch` does, with the service stopped."""
    store = SqliteStore(f"sqlite:///{telegraph.directory}/sends.db", "sends")
    await store.open()
    await broker.open()
    try:
        found = await find_published(store, broker, decided=decided)
        await begin_epoch(store, broker, found)
        return found
    finally:
        await broker.close()
        await store.close()


async def received_numbers(telegraph: Telegraph) -> list[int]:
    return sorted(number for some in (await telegraph.received()).values() for number in some)


async def everything_arrives(telegraph: Telegraph, broker: Broker, expected: list[int]) -> None:
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=broker, engine=ENGINE) as world:
        await telegraph.send(2000, 2001)
        await telegraph.until_received(world, len(expected) + 1)
        await world.settle()
        assert await received_numbers(telegraph) == [*expected, 2000]


async def sent(world: World) -> list[int]:
    return sorted(each.number for each in await world.published(Wired))


@pytest.mark.parametrize("written", [0, 5, 10, 25])
async def test_a_source_put_back_from_a_copy_is_refused_although_the_log_is_empty(
    telegraph: Telegraph, written: int
) -> None:
    """The subscriber starts with it. What it writes then: nothing, less than was lost, as much, more."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    empty_log(telegraph)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=ENGINE
    ) as world:
        refused = str(await refusal(world))
        await telegraph.send(1000, 1000 + written)
        assert "receives has applied position 30 (message " in refused
        assert "ensue db new-epoch MODULE:sends" in refused
        assert await sent(world) == []
        assert any("ensue db new-epoch" in each for each in await world.runtimes["sends"].readiness())
    # It stays refused, whether the subscriber runs or not.
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker(), engine=ENGINE) as world:
        assert "receives has applied position 30" in str(await refusal(world))
    found = await new_epoch(telegraph, telegraph.broker())
    assert (found.through, found.left) == (20, written)
    await everything_arrives(telegraph, telegraph.broker(), [*range(30), *range(1000, 1000 + written)])


@pytest.mark.parametrize("written", [5, 10, 25])
async def test_what_was_written_before_the_relay_began_is_for_an_operator_to_tell_from_what_the_copy_had(
    telegraph: Telegraph, written: int
) -> None:
    """A copy of a service that runs may hold records that were sent, and the relay's position does not say so."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    empty_log(telegraph)
    await write(telegraph, 1000, 1000 + written)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=ENGINE
    ) as world:
        await refusal(world)
        assert await sent(world) == []
    with pytest.raises(UsageError, match="give --published-through with the last position that was written before"):
        await new_epoch(telegraph, telegraph.broker())
    await new_epoch(telegraph, telegraph.broker(), decided=20)
    await everything_arrives(telegraph, telegraph.broker(), [*range(30), *range(1000, 1000 + written)])


@pytest.mark.parametrize("written", [5, 10, 25])
async def test_a_subscriber_that_comes_late_stops_the_source_and_misses_nothing_after_the_new_epoch(
    telegraph: Telegraph, written: int
) -> None:
    """Nobody objected in time, so the source has sent anew: the subscriber takes that for what it had."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    empty_log(telegraph)
    ticking = config(tick_max_s=0.02)
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker(), engine=ticking) as world:
        await telegraph.send(1000, 1000 + written)
        await world.settle()
        async with asyncio.timeout(LIMIT_S):
            while (await world.broker.bounds("wires", 0)).last < 60:
                await world.runtimes["sends"].store.outbox_wait(0.01)
        assert len(await sent(world)) == written
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        assert "receives has applied position 30" in str(await refusal(world))
    # It stays refused, although its log knows something of it again, and the subscriber is silent.
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        assert "receives has applied position 30" in str(await refusal(world))
    with pytest.raises(UsageError, match="receives has applied position 30"):
        await new_epoch(telegraph, telegraph.broker())
    await new_epoch(telegraph, telegraph.broker(), decided=20)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, 30 + written)
        await world.settle()
        assert await received_numbers(telegraph) == [*range(30), *range(1000, 1000 + written)]


async def test_a_log_that_is_lost_a_second_time_takes_nothing_from_a_subscriber_that_was_not_there(
    telegraph: Telegraph,
) -> None:
    """What was sent in between looks as if the copy had had it: positions up to the relay's, and not in the log."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    for start in (1000, 1003):
        empty_log(telegraph)
        async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
            await telegraph.send(start, start + 3)
            await world.settle()
    empty_log(telegraph)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=ENGINE
    ) as world:
        await refusal(world)
    with pytest.raises(UsageError, match="receives has applied position 30"):
        await new_epoch(telegraph, telegraph.broker())
    await new_epoch(telegraph, telegraph.broker(), decided=20)
    await everything_arrives(telegraph, telegraph.broker(), [*range(30), *range(1000, 1006)])


async def test_the_first_start_of_a_new_epoch_asks_nobody(
    telegraph: Telegraph, caplog: pytest.LogCaptureFixture
) -> None:
    await live(telegraph, 0, 20)
    await write(telegraph, 20, 25)
    await new_epoch(telegraph, telegraph.broker())
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, 25)
    assert "asking what subscribers have applied" not in caplog.text


async def test_a_source_whose_log_knows_nothing_of_it_asks_before_it_sends(telegraph: Telegraph) -> None:
    """The subscriber lives, and sees nothing strange: the log is empty, but its offsets go on."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    async with bench(telegraph.directory, telegraph.receives, broker=telegraph.broker(), engine=ENGINE) as receiving:
        await receiving.settle()
        with telegraph.log() as log:
            log.execute("DELETE FROM log")
        await write(telegraph, 1000, 1010)
        async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker(), engine=ENGINE) as world:
            assert "receives has applied position 30" in str(await refusal(world))
            assert await sent(world) == []


@pytest.mark.parametrize("written", [0, 10])
async def test_source_and_log_that_went_back_together_are_stopped_by_a_subscriber_that_did_not(
    telegraph: Telegraph, written: int
) -> None:
    """As one machine of several, put back as a whole: log and database agree, and may have gone on since, until even
    the offsets and the ticks are what the subscriber expects: it has to speak first."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    log = Path(shutil.copy(telegraph.path, telegraph.directory / "log-copy.db"))
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    empty_log(telegraph)
    shutil.copy(log, telegraph.path)
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(1000, 1000 + written)
        await world.settle()
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        assert "receives has applied position 30" in str(await refusal(world))


async def test_old_ticks_make_a_subscriber_ask_and_never_stop_a_source_that_is_well(
    telegraph: Telegraph, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay that was thought dead appends what it had in hand: the source compares, and goes on."""
    quiet = config(tick_first_s=60, tick_max_s=60)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=quiet
    ) as world:
        await telegraph.send(0, 30)
        await telegraph.until_received(world, 30)
        await world.settle()
        sends, receives = world.runtimes["sends"], world.runtimes["receives"]
        source = sends.store.source

        async def tick(position: int) -> None:
            envelope = encode_envelope(Envelope("old", TICK))
            record = OutboxRecord("wires", 0, "", envelope, b"", position, position)
            await world.broker.append("wires", 0, source, [sealed("wires", 0, source, record)])

        async def doubted(count: int) -> None:
            async with asyncio.timeout(LIMIT_S):
                while (await measure(receives.context, receives.worker))[DOUBTED] != {(): count}:
                    await receives.store.outbox_wait(0.01)

        with caplog.at_level(logging.ERROR):
            await tick(20)
            await doubted(1)
        assert "says that its last position is 20, and position 30 of it was applied" in caplog.text
        before = (await world.broker.bounds("ensue.control", 0)).last
        async with asyncio.timeout(LIMIT_S):  # it is told again and again
            while (await world.broker.bounds("ensue.control", 0)).last < before + 2:
                await receives.store.outbox_wait(0.01)
        await tick(30)
        await doubted(0)
        await telegraph.send(30, 40)
        await telegraph.until_received(world, 40)
        assert sends.worker is not None
        assert sends.worker.failed is None


async def test_a_log_that_is_emptied_under_a_source_that_is_well_stops_nobody(telegraph: Telegraph) -> None:
    await live(telegraph, 0, 30)
    empty_log(telegraph)
    async with bench(
        telegraph.directory,
        telegraph.sends,
        telegraph.receives,
        broker=telegraph.broker(),
        engine=config(resend_interval_s=0.3),
    ) as world:
        await telegraph.send(30, 60)
        await telegraph.until_received(world, 60)
        await world.settle()
        assert await received_numbers(telegraph) == list(range(60))
        worker = world.runtimes["sends"].worker
        assert worker is not None
        assert worker.failed is None
        assert await world.runtimes["sends"].context.books.relay_waits() == -1


async def test_words_that_name_no_message_of_the_store_prove_nothing(
    telegraph: Telegraph, caplog: pytest.LogCaptureFixture
) -> None:
    """As a subscriber says it that has forgotten the message, or anybody who can write to the control topic."""
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(0, 10)
        await world.settle()
        runtime = world.runtimes["sends"]
        source, where = runtime.store.source, Partition("receives", "wires", 0)
        mine = await another_lifes_id(runtime.store)
        for said in (
            Checkpoint(watermarks={source: 10}),
            Checkpoint(watermarks={"sends/elsewhere": 99}),
            Checkpoint(watermarks={source: 11}),
            Checkpoint(watermarks={source: 11}, ids={source: "forged.1.0123456789abcdef"}),
        ):
            await say_seen(runtime.context, where, said, said.watermarks)
        await telegraph.send(10, 12)
        await world.settle()
        assert "has applied position 11 (message unknown)" in caplog.text
        await say_seen(runtime.context, where, Checkpoint(watermarks={source: 13}, ids={source: mine}), {source})
        refused = str(await refusal(world))
        assert f"receives has applied position 13 (message {mine}) of sends/" in refused
        assert "knows of none after position 12" in refused


async def another_lifes_id(store: Store) -> str:
    """As a process makes it that works on a copy of this store."""
    ids = HallmarkedIds(UniqueIds(), SystemClock())
    await ids.begin(store)
    return ids.next()


async def test_what_was_applied_of_an_epoch_that_another_process_has_ended_says_nothing_of_the_new_one(
    telegraph: Telegraph,
) -> None:
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(0, 10)
        await world.settle()
    stores = [SqliteStore(f"sqlite:///{telegraph.directory}/sends.db", "sends") for _ in range(2)]
    for store in stores:
        await store.open()
    try:
        mine = await another_lifes_id(stores[0])
        seen = ResendRequest(stores[0].source, "wires", 0, 10, 10, "receives", mine)
        assert await examine(stores[0], seen) is not None
        await stores[1].new_epoch(5, stores[1].source)
        assert await examine(stores[0], seen) is None
    finally:
        for store in stores:
            await store.close()


async def test_a_checkpoint_keeps_the_message_at_its_watermark(telegraph: Telegraph) -> None:
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(0, 10)
        await telegraph.until_received(world, 10)
        await world.settle()
        [checkpoint] = (await world.runtimes["receives"].context.books.checkpoints()).values()
        [record] = await world.runtimes["sends"].store.outbox_after(9, 1)
        assert checkpoint.ids == {world.runtimes["sends"].store.source: decode_envelope(record.envelope).id}


async def test_on_a_real_broker_a_source_put_back_from_a_copy_is_refused_although_the_log_is_empty(
    telegraph: Telegraph, start: Callable[..., Any]
) -> None:
    server = start(NatsServer)

    def broker() -> Broker:
        return make_broker(server.url())

    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=broker()) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
        await world.settle()
    backup = copy(telegraph)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=broker()) as world:
        await telegraph.send(20, 30)
        await telegraph.until_received(world, 30)
        await world.settle()
    put_back(telegraph, backup)
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.wipe_data)
    server.spawn()
    await server.ready()
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=broker(), engine=ENGINE) as world:
        assert "receives has applied position 30" in str(await refusal(world))
        await telegraph.send(1000, 1010)
        assert await sent(world) == []
    await new_epoch(telegraph, broker())
    await everything_arrives(telegraph, broker(), [*range(30), *range(1000, 1010)])
