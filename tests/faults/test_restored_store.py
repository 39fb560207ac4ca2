"""A database that is put back from an old copy: noticed before anything is sent, and helped by one command."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.test_log_damage import Telegraph, Wired, all_of
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, config

from ensue import Command, Service, Settings
from ensue.brokers.memory import MemoryBroker
from ensue.engine.epoch import begin_epoch, find_published
from ensue.engine.restored import find_contradiction
from ensue.engine.runtime import Runtime
from ensue.errors import BrokerUnavailable, StoreRestored
from ensue.message import Bounds
from ensue.operations.status import relay_reasons
from ensue.stores.sqlite import SqliteStore
from ensue.testing import World


@pytest.fixture
def telegraph(tmp_path: Path) -> Telegraph:
    return Telegraph(tmp_path)


async def live(telegraph: Telegraph, start: int, end: int) -> None:
    """Both services run, numbers are sent, and all is received."""
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(start, end)
        await world.settle()


def copy(telegraph: Telegraph, service: str = "sends") -> Path:
    """A copy of the sender's database, taken while it is closed."""
    return Path(shutil.copy(telegraph.directory / f"{service}.db", telegraph.directory / "copy.db"))


def put_back(telegraph: Telegraph, backup: Path, service: str = "sends") -> None:
    for path in telegraph.directory.glob(f"{service}.db*"):
        path.unlink()
    shutil.copy(backup, telegraph.directory / f"{service}.db")


async def refusal(world: World, service: str = "sends") -> StoreRestored:
    worker = world.runtimes[service].worker
    assert worker is not None
    await asyncio.wait_for(worker.wait_failed(), LIMIT_S)
    assert isinstance(worker.failed, StoreRestored)
    return worker.failed


async def new_epoch(telegraph: Telegraph) -> None:
    """What `ensue db new-epoch` does, with the service stopped."""
    store, broker = SqliteStore(f"sqlite:///{telegraph.directory}/sends.db", "sends"), telegraph.broker()
    await store.open()
    await broker.open()
    await begin_epoch(store, broker, await find_published(store, broker))
    await broker.close()
    await store.close()


def not_working(telegraph: Telegraph) -> Runtime:
    """For steps only: no relay runs."""
    store = SqliteStore(f"sqlite:///{telegraph.directory}/sends.db", "sends")
    return Runtime(telegraph.sends, store, telegraph.broker(), Settings(database="", broker="", partitions=1))


async def test_a_store_put_back_from_an_old_copy_is_refused_and_the_command_that_helps_is_named(
    telegraph: Telegraph,
) -> None:
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        refused = await refusal(world)
        assert "ensue db new-epoch" in str(refused)
        assert "older copy" in str(refused)
        assert refused.topic == "wires"
        books = world.runtimes["sends"].context.books
        async with asyncio.timeout(LIMIT_S):  # `ensue status` says why nothing is sent, after the next heartbeat
            while not any("older copy" in each for each in relay_reasons(await books.leases(), unsent=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        # Steps commit all the same; nothing of them is sent, so nothing is taken for a duplicate.
        await telegraph.send(1000, 1003)
        await world.runtimes["sends"].store.outbox_wait(0.3)
        assert max(each.number for each in await world.published(Wired)) < 1000
    await new_epoch(telegraph)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(1003, 1006)
        await telegraph.until_received(world, 36)
        await world.settle()
        got = await telegraph.received()
        assert sorted(number for numbers in got.values() for number in numbers) == [*range(30), *range(1000, 1006)]
        assert all(numbers == sorted(numbers) for numbers in got.values())


@pytest.mark.parametrize("written", [10, 25])
async def test_a_copy_that_has_gone_on_to_the_same_position_with_other_records_is_refused_too(
    telegraph: Telegraph, written: int
) -> None:
    """It wrote while nobody sent, so the log's last position is nothing new to it: the record there is another."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    runtime = not_working(telegraph)
    async with telegraph.sends.running(runtime, work=False):
        await telegraph.send(1000, 1000 + written)
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        refused = await refusal(world)
        assert "at that position" in str(refused)
        assert "ensue db new-epoch" in str(refused)
    await new_epoch(telegraph)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, 30 + written)
        await world.settle()
        got = await telegraph.received()
        assert sorted(number for numbers in got.values() for number in numbers) == [
            *range(30), *range(1000, 1000 + written)
        ]  # fmt: skip


class Ring(Command[None], service="bell", key="station"):
    station: str


@pytest.mark.parametrize("restored", ["bell", "tower"])
async def test_a_copy_from_before_the_first_command_or_answer_is_refused(telegraph: Telegraph, restored: str) -> None:
    """Its outbox knows nothing of the topic yet, and which topic an answer goes to stands in the command alone."""
    bell, tower = Service("bell", publishes=[]), Service("tower", publishes=[], calls=[Ring])

    @bell.handles
    def ring(command: Ring) -> None: ...

    async with bench(telegraph.directory, bell, tower, broker=telegraph.broker()):
        pass
    backup = copy(telegraph, restored)
    async with bench(telegraph.directory, bell, tower, broker=telegraph.broker()):
        await tower.call(Ring(station="a"), timeout=LIMIT_S)
    put_back(telegraph, backup, restored)
    service = bell if restored == "bell" else tower
    async with bench(telegraph.directory, service, broker=telegraph.broker()) as world:
        assert (await refusal(world, restored)).topic == ("tower.replies" if restored == "bell" else "bell.commands")


async def test_a_copy_is_refused_behind_a_long_silence(telegraph: Telegraph) -> None:
    """More ticks than one look at the end of the log holds; and a tick names no message."""
    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    runtime = not_working(telegraph)
    async with telegraph.sends.running(runtime, work=False):
        await telegraph.send(1000, 1010)

        sender = Sender(runtime.broker, runtime.store.source)
        sender._heads["wires", 0] = 30
        await sender.append(*[sender.tick("wires") for _ in range(2500)])
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        assert "at that position" in str(await refusal(world))


async def test_a_database_that_was_deleted_is_a_new_source_and_just_works(telegraph: Telegraph) -> None:
    await live(telegraph, 0, 20)
    for path in telegraph.directory.glob("sends.db*"):
        path.unlink()
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(1000, 1010)
        await telegraph.until_received(world, 30)
        await world.settle()
        worker = world.runtimes["sends"].worker
        assert worker is not None
        assert worker.failed is None
        got = await telegraph.received()
        assert sorted(number for numbers in got.values() for number in numbers) == [*range(20), *range(1000, 1010)]


async def test_a_store_whose_own_history_is_in_the_log_starts_however_its_relay_was_killed(
    telegraph: Telegraph,
) -> None:
    """The relay's saved position lags, or the last append was torn: that is no restore."""
    await live(telegraph, 0, 20)
    with closing(sqlite3.connect(telegraph.directory / "sends.db")) as database:
        database.execute("UPDATE ensue_relay SET position = 3 WHERE id LIKE 'sends/%'")
        database.commit()
    with telegraph.log() as log:
        log.execute("DELETE FROM log WHERE position > 17")
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(20, 60)
        await telegraph.until_received(world, 60)
        await world.settle()
        assert await telegraph.received() == all_of()


async def test_the_subscriber_put_back_from_an_old_copy_applies_what_it_has_forgotten(telegraph: Telegraph) -> None:
    """Its checkpoint went back with its tables, so both agree, and what the log lacks is asked for."""
    await live(telegraph, 0, 20)
    backup = Path(shutil.copy(telegraph.directory / "receives.db", telegraph.directory / "copy.db"))
    await live(telegraph, 20, 40)
    for path in telegraph.directory.glob("receives.db*"):
        path.unlink()
    shutil.copy(backup, telegraph.directory / "receives.db")
    with telegraph.log() as log:
        log.execute("DELETE FROM log WHERE position BETWEEN 22 AND 30")
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(40, 60)
        await telegraph.until_received(world, 60)
        await world.settle()
        assert await telegraph.received() == all_of()


async def test_a_copy_is_refused_although_another_service_publishes_to_the_same_topic(telegraph: Telegraph) -> None:

    await live(telegraph, 0, 20)
    backup = copy(telegraph)
    await live(telegraph, 20, 30)
    put_back(telegraph, backup)
    broker = telegraph.broker()
    await broker.open()
    await Sender(broker).send(*[Wired(station="elsewhere", number=number) for number in range(3000)])
    await broker.close()
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker(), engine=config()) as world:
        assert "ensue db new-epoch" in str(await refusal(world))


class SlowToTellItsEnds(MemoryBroker):
    """Tells where a partition ends when it is asked for four at once; of one of them it may not know."""

    asked = ended = 0
    fails_at = -1

    async def bounds(self, topic: str, partition: int) -> Bounds:
        self.asked += 1
        try:
            if partition == self.fails_at:
                raise BrokerUnavailable("it does not answer")
            await self.four.wait()
            return await super().bounds(topic, partition)
        finally:
            self.ended += 1

    async def open(self) -> None:
        await super().open()
        self.four = asyncio.Barrier(4)


@pytest.mark.parametrize("fails_at", [-1, 2])
async def test_a_relay_that_starts_compares_the_ends_of_several_partitions_at_once(
    telegraph: Telegraph, fails_at: int
) -> None:
    """One after the other they kept a relay on a slow machine from sending for half a minute."""
    store, broker = SqliteStore(f"sqlite:///{telegraph.directory}/sends.db", "sends"), SlowToTellItsEnds("memory:slow")
    broker.fails_at = fails_at
    await store.open()
    await broker.open()
    try:
        await broker.ensure_topic("wires", 4)
        async with asyncio.timeout(LIMIT_S):
            if fails_at < 0:
                assert await find_contradiction(store, broker, ["wires"]) is None
            else:
                with pytest.raises(BrokerUnavailable):
                    await find_contradiction(store, broker, ["wires"])
        assert broker.asked == broker.ended == 4, "some are still under way"
    finally:
        await broker.close()
        await store.close()
