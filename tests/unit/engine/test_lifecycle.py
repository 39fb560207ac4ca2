"""Starting and stopping: at any moment, within seconds, with nothing lost and nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select, text
from sqlalchemy.orm import Session
from tests.unit.engine.workbench import (
    LIMIT_S,
    ReadByBroker,
    Sender,
    _Shared,
    bench,
    config,
    letters,
    store_of,
    until,
    until_troubled,
)

from ensue import Event, Service, Settings, Step
from ensue.brokers.memory import MemoryBroker, MemoryReader
from ensue.engine.books import Books
from ensue.engine.readiness import Detailed
from ensue.engine.runtime import Runtime
from ensue.errors import BrokerUnavailable, StoreUnavailable
from ensue.stores.sqlite import SqliteStore
from ensue.stores.sqlite.transaction import SqliteTransaction
from ensue.tables import CHECKPOINTS


class Drop(Event, topic="water", key="pipe"):
    pipe: str
    number: int


def well(got: list[int]) -> Service:
    service = Service("well")

    @service.on
    async def collect(event: Drop, step: Step) -> None:
        await step.session.execute(text("SELECT 1"))
        await asyncio.sleep(0)
        got.append(event.number)

    return service


def runtime_of(service: Service, directory: Path, broker: Any) -> Runtime:
    settings = Settings(database="", broker="", partitions=2, engine=config())
    return Runtime(service, store_of(directory, service.name), broker, settings)


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_an_idle_service_stops_at_once_and_leaves_no_task(tmp_path: Path) -> None:
    before = others()
    async with asyncio.timeout(LIMIT_S):
        async with bench(tmp_path, well([]), engine=config(poll_interval_s=3600.0, tick_first_s=60.0, tick_max_s=60.0)):
            pass
    assert others() <= before


async def test_a_service_under_load_stops_after_the_batch_at_hand_and_goes_on_where_it_was(tmp_path: Path) -> None:
    got: list[int] = []
    service = well(got)
    broker = MemoryBroker("memory:load")
    engine = config(batch_records_max=20)
    async with bench(tmp_path, service, broker=broker, engine=engine) as world:
        sender = Sender(world.broker)
        await sender.send(*[Drop(pipe="a", number=number) for number in range(5000)])
        await until(lambda: len(got) > 100, world)
        async with asyncio.timeout(LIMIT_S):
            await world.runtimes["well"].stop()
        stopped_at = len(got)
        assert stopped_at < 5000
        await world.runtimes["well"].stop()  # safe to repeat
    async with bench(tmp_path, service, broker=broker) as world:
        await world.settle(30.0)
    assert got == list(range(5000))


@pytest.mark.parametrize("turns", [*range(12), 20, 40, 80])
async def test_a_stop_at_any_moment_of_the_start_ends_everything(tmp_path: Path, turns: int) -> None:
    """turns: of the event loop between the beginning of the start and the stop."""
    before = others()
    broker = _Shared(MemoryBroker())
    await broker.open()
    await Sender(broker, partitions=2).append()
    runtime = runtime_of(well([]), tmp_path, broker)
    starting = asyncio.create_task(runtime.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT_S):
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await runtime.stop()
    await broker.really_close()
    assert others() <= before
    # Nothing holds the file: it opens for another, and no lease is left behind.
    store = store_of(tmp_path, "well")
    await store.open()
    assert (await Books(store, "well").leases()).leases == ()
    await store.close()


@pytest.mark.parametrize("turns", [*range(12), 20, 40, 80])
async def test_a_start_that_is_given_up_halfway_leaves_nothing_open(tmp_path: Path, turns: int) -> None:
    """`running` cancelled from outside, as by a timeout around the start of an application."""
    before = others()
    broker = _Shared(MemoryBroker())
    await broker.open()
    service = well([])

    async def live() -> None:
        async with service.running(runtime_of(service, tmp_path, broker)):
            await asyncio.Event().wait()

    living = asyncio.create_task(live())
    for _ in range(turns):
        await asyncio.sleep(0)
    living.cancel()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(living, return_exceptions=True)
    await broker.really_close()
    assert others() <= before
    assert service._runtime is None


class AwayBroker(ReadByBroker):
    away = False

    async def read_by(self, reader: MemoryReader, reading: Any) -> Any:
        if self.away:
            reading.close()
            raise BrokerUnavailable("away")
        return await reading

    async def append_many(self, *args: Any) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        await super().append_many(*args)


async def test_a_stop_does_not_wait_for_a_broker_that_is_away(tmp_path: Path) -> None:
    got: list[int] = []
    service = well(got)
    broker = AwayBroker()
    async with bench(tmp_path, service, broker=broker) as world:
        await Sender(world.broker).send(Drop(pipe="a", number=1))
        await world.settle()
        broker.away = True
        async with service.step() as step:
            step.publish(Drop(pipe="a", number=2))
        await asyncio.sleep(0.2)  # until the pauses have grown; the limit below is far above them all
        async with asyncio.timeout(4.0):
            await world.runtimes["well"].stop()


async def test_a_stop_cuts_short_a_read_that_gets_no_answer(tmp_path: Path) -> None:
    asked = asyncio.Event()

    class Hanging(ReadByBroker):
        async def read_by(self, reader: MemoryReader, reading: Any) -> Any:
            if reader.topic == "water":
                reading.close()
                asked.set()
                await asyncio.Event().wait()
            return await reading

    broker = Hanging()
    async with bench(tmp_path, well([]), broker=broker) as world:
        await asyncio.wait_for(asked.wait(), LIMIT_S)
        async with asyncio.timeout(LIMIT_S):
            await world.runtimes["well"].stop()
        assert not broker._readers


async def test_a_stop_during_the_pause_after_an_error_is_not_held_up_by_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop comes while the failing call is under way, so nothing waits yet that it could cut short."""
    service = well([])
    asked, answer = asyncio.Event(), asyncio.Event()

    class Stuck(SqliteStore):
        def rows(self) -> Any:
            reader = super().rows()
            healthy = reader.get

            async def get(table: Any, ids: Any) -> Any:
                if table is not CHECKPOINTS:
                    return await healthy(table, ids)
                asked.set()
                await answer.wait()
                raise RuntimeError("a defect")

            reader.get = get  # type: ignore[method-assign]  # this one reader's
            return reader

    store = Stuck(f"sqlite:///{tmp_path}/well.db?synchronous=OFF", "well")
    async with bench(tmp_path, service, stores={"well": store}) as world:
        await asyncio.wait_for(asked.wait(), LIMIT_S)
        [consumer] = world.runtimes["well"].worker.loops.consumers  # type: ignore[union-attr]
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            if seconds:
                pauses.append(seconds)
                await asyncio.Event().wait()

        object.__setattr__(consumer._context, "clock", _Clock(consumer._context.clock, sleep))
        stopping = asyncio.create_task(world.runtimes["well"].stop())
        while not consumer._stop.asked:  # noqa: ASYNC110  # nothing tells it but this
            await asyncio.sleep(0)
        answer.set()
        await asyncio.wait_for(stopping, LIMIT_S)
        assert pauses == []
    assert "a defect" in caplog.text


class _Clock:
    def __init__(self, clock: Any, sleep: Any) -> None:
        self._clock = clock
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


async def test_a_handler_of_the_last_batch_may_still_read_through_its_service(tmp_path: Path) -> None:
    service = Service("well")
    begun, go_on = asyncio.Event(), asyncio.Event()
    read: list[int] = []

    @service.on
    async def collect(event: Drop) -> None:
        begun.set()
        await go_on.wait()
        async with service.query() as session:
            read.append(await session.scalar(text("SELECT 42")) or 0)

    stopping: asyncio.Task[None] | None = None
    broker = _Shared(MemoryBroker())
    await broker.open()
    runtime = runtime_of(service, tmp_path, broker)

    async def live() -> None:
        async with service.running(runtime):
            await Sender(broker, partitions=2).send(Drop(pipe="a", number=1))
            await begun.wait()

    stopping = asyncio.create_task(live())
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait_for(stopping, LIMIT_S)
    await broker.really_close()
    assert read == [42]
    store = store_of(tmp_path, "well")
    await store.open()
    assert await Books(store, "well").letters() == []
    await store.close()


async def test_a_handler_that_never_ends_is_rolled_back_at_the_limit_of_the_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("well")
    begun = asyncio.Event()
    stuck = True
    got: list[int] = []

    @service.on
    async def collect(event: Drop, step: Step) -> None:
        step.publish(Drop(pipe="b", number=-1))
        begun.set()
        if stuck and event.number == 2:
            await asyncio.Event().wait()
        if event.number > 0:
            got.append(event.number)

    broker = MemoryBroker("memory:stuck")
    async with bench(tmp_path, service, broker=broker, engine=config(stop_limit_s=0.05)) as world:
        await Sender(world.broker).send(Drop(pipe="a", number=1), Drop(pipe="a", number=2))
        await asyncio.wait_for(begun.wait(), LIMIT_S)
        async with asyncio.timeout(LIMIT_S):
            await world.runtimes["well"].stop()
        assert await world.published(Drop) == [Drop(pipe="a", number=1), Drop(pipe="a", number=2)]
    assert "did not end within" in caplog.text
    stuck = False
    got.clear()
    async with bench(tmp_path, service, broker=broker) as world:
        await until(lambda: got == [1, 2], world)
        assert not await letters(world, service)


async def test_a_thread_that_outlives_its_step_writes_nothing(tmp_path: Path) -> None:
    """A plain def handler cannot be cancelled; what it does after the stop must not reach any transaction."""
    tables = MetaData()
    puddles = Table("puddle", tables, Column("id", Integer, primary_key=True), Column("number", Integer))
    service = Service("well", tables=tables)
    begun, go_on, refused = threading.Event(), threading.Event(), threading.Event()

    @service.on
    def collect(event: Drop, session: Session) -> None:
        session.execute(insert(puddles).values(number=event.number))
        if not go_on.is_set():
            begun.set()
            go_on.wait(LIMIT_S)
            try:
                session.execute(insert(puddles).values(number=-1))
            except Exception:
                refused.set()
                raise

    broker = MemoryBroker("memory:thread")
    async with bench(tmp_path, service, broker=broker, engine=config(stop_limit_s=0.05)) as world:
        await Sender(world.broker).send(Drop(pipe="a", number=1))
        await asyncio.to_thread(begun.wait, LIMIT_S)
        async with asyncio.timeout(LIMIT_S):
            await world.runtimes["well"].stop()
        go_on.set()
        assert await asyncio.to_thread(refused.wait, LIMIT_S)
    async with bench(tmp_path, service, broker=broker) as world:
        await world.settle()
        async with service.query() as session:
            assert list(await session.scalars(select(puddles.c.number))) == [1]


async def test_a_stop_while_a_heartbeat_gives_work_away_waits_for_that_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch of a partition that goes to another worker is not finished yet; the stop must not run past it."""
    service = Service("well")
    begun, go_on = asyncio.Event(), asyncio.Event()
    got: list[int] = []

    @service.on
    async def collect(event: Drop) -> None:
        begun.set()
        await go_on.wait()
        got.append(event.number)

    async with bench(tmp_path, service, engine=config(lease_ttl_s=0.06)) as world:
        worker = world.runtimes["well"].worker
        assert worker is not None
        await Sender(world.broker).send(Drop(pipe="a", number=1))
        await asyncio.wait_for(begun.wait(), LIMIT_S)
        [consumer] = worker.loops.consumers
        worker.loops.leave(["water/0"])  # as a heartbeat does
        stopping = asyncio.create_task(world.runtimes["well"].stop())
        assert consumer._stop.asked
        for _ in range(50):
            await asyncio.sleep(0)
        assert not stopping.done()
        go_on.set()
        await asyncio.wait_for(stopping, LIMIT_S)
        assert got == [1]
    assert "unexpected" not in caplog.text


async def test_retention_goes_on_after_an_error_that_nobody_foresaw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pruned = asyncio.Event()

    class Strange(MemoryBroker):
        asked = 0

        async def prune(self, *args: Any) -> int:
            self.asked += 1
            if self.asked == 1:
                raise ZeroDivisionError("strange")
            pruned.set()
            return await super().prune(*args)

    async with bench(tmp_path, well([]), broker=Strange(), engine=config(retention_interval_s=0.01)):
        await asyncio.wait_for(pruned.wait(), LIMIT_S)
    assert "strange" in caplog.text


async def test_a_loop_that_ends_unexpectedly_is_said_and_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a relay stumbles over, the next heartbeat starts another."""

    class Stumbling(MemoryBroker):
        stumbles = 1

        async def append_many(self, *args: Any) -> None:
            if self.stumbles:
                self.stumbles -= 1
                raise ZeroDivisionError("stumbled")
            await super().append_many(*args)

    got: list[int] = []
    service = well(got)
    async with bench(tmp_path, service, broker=Stumbling(), engine=config(lease_ttl_s=0.3)) as world:
        async with service.step() as step:
            step.publish(Drop(pipe="a", number=1))
        await until(lambda: got == [1], world)
    assert "stumbled" in caplog.text


async def test_a_consumer_outlives_a_defect_of_its_adapter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(ReadByBroker):
        odd = 3

        async def read_by(self, reader: MemoryReader, reading: Any) -> Any:
            if reader.topic == "water" and self.odd:
                self.odd -= 1
                reading.close()
                raise ZeroDivisionError("odd")
            return await reading

    got: list[int] = []
    async with bench(tmp_path, well(got), broker=Odd()) as world:
        await Sender(world.broker).send(Drop(pipe="a", number=1))
        await world.settle()
    assert got == [1]
    assert [each.levelno for each in caplog.records if "unexpected" in each.message] == [logging.ERROR] * 3


async def test_a_consumer_that_meets_a_defect_again_and_again_is_not_ready(tmp_path: Path) -> None:
    """The probe sees it, not only who reads the log."""

    class Odd(ReadByBroker):
        odd = True

        async def read_by(self, reader: MemoryReader, reading: Any) -> Any:
            if reader.topic == "water" and self.odd:
                reading.close()
                raise ZeroDivisionError("odd")
            return await reading

    got: list[int] = []
    broker = Odd()
    async with bench(tmp_path, well(got), broker=broker, partitions=1) as world:
        await until_troubled(world, "well", True)
        [why] = await world.runtimes["well"].readiness()
        assert why == "well<-water/0: unexpected, ZeroDivisionError; the log tells more: odd"
        assert isinstance(why, Detailed)
        assert "odd" not in why.brief, "whose words may be"
        broker.odd = False
        await Sender(world.broker, partitions=1).send(Drop(pipe="a", number=1))
        await until(lambda: got == [1], world)
        await until_troubled(world, "well", False)
        assert await world.runtimes["well"].readiness() == []


async def test_other_work_of_the_process_gets_its_turn_while_a_backlog_is_consumed(tmp_path: Path) -> None:
    """An embedded store never waits for anything: the loops must step aside by themselves."""
    got: list[int] = []
    service = Service("well")

    @service.on
    async def collect(event: Drop) -> None:
        got.append(event.number)

    async with bench(tmp_path, service, engine=config(batch_records_max=10)) as world:
        await Sender(world.broker).send(*[Drop(pipe="a", number=number) for number in range(3000)])
        seen: list[int] = []
        while len(got) < 3000:
            seen.append(len(got))
            await asyncio.sleep(0)
        most = max(later - sooner for sooner, later in itertools.pairwise(seen))
        assert most <= 30, f"{most} messages were handled without a pause"


async def test_a_heartbeat_that_fails_keeps_the_work_going(tmp_path: Path) -> None:
    class Arrhythmic(SqliteStore):
        beats = 0

        def transaction(
            self, *, upkeep: bool = False, snapshot: bool = False
        ) -> AbstractAsyncContextManager[SqliteTransaction, bool | None]:
            self.beats += upkeep  # nothing else is upkeep here: there is no position of a relay to save
            if upkeep and self.beats in (3, 4):
                raise StoreUnavailable("no pulse")
            if upkeep and self.beats == 5:
                raise ZeroDivisionError("no pulse at all")
            return super().transaction(upkeep=upkeep)

    got: list[int] = []
    store = Arrhythmic(f"sqlite:///{tmp_path}/well.db?synchronous=OFF", "well")
    engine = config(lease_ttl_s=0.06, relay_save_interval_s=3600.0)
    async with bench(tmp_path, well(got), stores={"well": store}, engine=engine) as world:
        sender = Sender(world.broker)
        number = 0
        while store.beats < 10:
            number += 1
            await sender.send(Drop(pipe="a", number=number))
            await asyncio.sleep(0.005)
        await world.settle()
        assert not await letters(world, world.runtimes["well"].definition)  # type: ignore[arg-type]
    assert got == list(range(1, number + 1))
