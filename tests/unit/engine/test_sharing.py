"""Several workers of one service, each as a process would be: its own store object, its own leases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from tests.unit.engine.workbench import LIMIT_S, ReadByBroker, Sender, config, store_of

from ensue import EngineConfig, Event, Service, Settings, Step
from ensue.brokers.memory import MemoryBroker, MemoryReader
from ensue.engine.consumer import PartitionConsumer
from ensue.engine.lane import Lane
from ensue.engine.loops import RELAY
from ensue.engine.runtime import Runtime
from ensue.message import Partition

PARTITIONS = 8


class Baked(Event, topic="bread", key="loaf"):
    loaf: str
    number: int


tables = MetaData()
eaten = Table(
    "eaten", tables, Column("id", Integer, primary_key=True), Column("loaf", String), Column("number", Integer)
)


def eater() -> Service:
    service = Service("eater", tables=tables)

    @service.on
    async def eat(event: Baked, step: Step) -> None:
        await step.session.execute(insert(eaten).values(loaf=event.loaf, number=event.number))

    return service


class Bakery:
    """Workers of one service on one file and one log."""

    def __init__(self, directory: Path, engine: EngineConfig) -> None:
        self.directory = directory
        self.log = f"memory:{directory}"
        self.engine = engine
        self.workers: list[Runtime] = []
        self.changed = asyncio.Event()

    def worker(self, broker: Any = None) -> Runtime:
        settings = Settings(database="", broker="", partitions=PARTITIONS, engine=self.engine)
        runtime = Runtime(
            eater(), store_of(self.directory, "eater"), broker or MemoryBroker(self.log), settings, tables=tables,
            progress=self.changed.set, random=Random(len(self.workers)),
        )  # fmt: skip
        self.workers.append(runtime)
        return runtime

    async def eaten(self) -> dict[str, list[int]]:
        store = store_of(self.directory, "eater")
        await store.open()
        found: dict[str, list[int]] = {}
        async with store.reading() as session:
            for loaf, number in await session.execute(select(eaten.c.loaf, eaten.c.number).order_by(eaten.c.id)):
                found.setdefault(loaf, []).append(number)
        await store.close()
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():  # noqa: ASYNC110  # leases change without anybody being told
                await asyncio.sleep(0.005)

    def shares(self) -> list[int]:
        return [
            sum(name != RELAY for name in each.worker.loops.names) for each in self.workers if each.worker is not None
        ]


@asynccontextmanager
async def bakery(directory: Path) -> AsyncIterator[tuple[Bakery, Sender]]:
    async with AsyncExitStack() as stack:
        place = Bakery(directory, config(lease_ttl_s=0.06))
        broker = MemoryBroker(place.log)
        await broker.open()
        stack.push_async_callback(broker.close)
        await broker.ensure_topic("bread", PARTITIONS)

        async def stop_all() -> None:
            for each in place.workers:
                await each.stop()

        stack.push_async_callback(stop_all)
        yield place, Sender(broker, partitions=PARTITIONS)


def loaves(number: int) -> list[Baked]:
    return [Baked(loaf=f"loaf-{each % 16}", number=each) for each in range(number)]


async def test_workers_share_the_partitions_fairly_and_what_one_gives_up_goes_to_the_others(tmp_path: Path) -> None:
    async with bakery(tmp_path) as (place, sender):
        for _ in range(3):
            await place.worker().start()
        await place.until(lambda: sorted(place.shares()) == [2, 3, 3])
        assert sum(RELAY in each.worker.loops.names for each in place.workers if each.worker) == 1
        await sender.send(*loaves(200))
        leaving = place.workers[0]
        name = leaving.worker.name  # type: ignore[union-attr]
        await leaving.stop()
        # Given up at the stop, not when it runs out.
        table = await place.workers[1].context.books.leases()
        assert name not in table.workers
        assert all(lease.owner != name for lease in table.leases)
        await place.until(lambda: sorted(place.shares()) == [4, 4])
        async with asyncio.timeout(LIMIT_S):
            while True:
                place.changed.clear()  # before looking: what comes meanwhile is not missed
                if sum(map(len, (await place.eaten()).values())) >= 200:
                    break
                await place.changed.wait()
        assert await place.eaten() == {f"loaf-{loaf}": list(range(loaf, 200, 16)) for loaf in range(16)}


async def test_work_moves_from_worker_to_worker_and_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    """Workers come and go while messages flow; every hand-over is a chance for a zombie."""
    random = Random(7)
    async with bakery(tmp_path) as (place, sender):
        await place.worker().start()
        for start in range(0, 1000, 20):
            await sender.send(*loaves(1000)[start : start + 20])
            live = [each for each in place.workers if each.worker is not None]
            if len(live) > 1 and random.random() < 0.4:
                await random.choice(live).stop()
            elif len(live) < 4 and random.random() < 0.5:
                await place.worker().start()
            await asyncio.sleep(0.005)
        async with asyncio.timeout(30.0):
            while True:
                place.changed.clear()  # before looking: what comes meanwhile is not missed
                if sum(map(len, (await place.eaten()).values())) >= 1000:
                    break
                await place.changed.wait()
        assert await place.eaten() == {f"loaf-{loaf}": list(range(loaf, 1000, 16)) for loaf in range(16)}


class MeetingBroker(ReadByBroker):
    """Readers wait for each other after each read, so that both hold the same batch before either begins."""

    def __init__(self, log: str, meeting: asyncio.Barrier) -> None:
        super().__init__(log)
        self._meeting = meeting
        self.met = 0

    async def read_by(self, reader: MemoryReader, reading: Any) -> Any:
        found = await reading
        if found and reader.topic == "bread" and not self._meeting.broken:
            self.met += 1
            await self._meeting.wait()
        return found


@pytest.mark.parametrize("batch", [1, 10])
async def test_of_two_that_believe_to_own_a_partition_exactly_one_commits_each_batch(
    tmp_path: Path, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ensue.consumer")
    number = 60
    meeting = asyncio.Barrier(2)
    async with AsyncExitStack() as stack:
        place = Bakery(tmp_path, config(batch_records_max=batch))
        brokers = [MeetingBroker(place.log, meeting) for _ in range(2)]
        consumers: list[PartitionConsumer] = []
        for broker in brokers:
            runtime = place.worker(broker)
            await runtime.start(work=False)
            stack.push_async_callback(runtime.stop)
            lane = Lane(runtime.context, Random(0))
            consumers.append(PartitionConsumer(Partition("eater", "bread", 3), runtime.context, lane, Random(0)))
        sender = Sender(brokers[0], partitions=PARTITIONS)
        loaf = next(name for name in map(str, range(99)) if sender.record(Baked(loaf=name, number=0)).partition == 3)
        sender = Sender(brokers[0], partitions=PARTITIONS)
        await sender.send(*[Baked(loaf=loaf, number=each) for each in range(number)])
        running = [asyncio.create_task(each.run()) for each in consumers]
        async with asyncio.timeout(LIMIT_S):
            while max(each.offset for each in consumers) < number:
                place.changed.clear()
                await place.changed.wait()
        await meeting.abort()
        for consumer in consumers:
            consumer.stop()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*running)
        assert await place.eaten() == {loaf: list(range(number))}
        [checkpoint] = (await place.workers[0].context.books.checkpoints()).values()
        assert checkpoint.counters.applied == number
        conflicts = [each for each in caplog.records if "not of revision" in each.getMessage()]
        # Both had each batch in hand; who came second was refused, every time.
        assert len(conflicts) >= number // batch - 1
        assert all(each.exc_info is None for each in conflicts)
