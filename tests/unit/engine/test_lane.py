"""A lane: one transaction at a time for all partitions that have records, and whom a failure costs what."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from servers import PostgresServer
from tests.unit.engine.workbench import CountingStore, Sender, bench, config, letters, until, until_troubled

from ensue import Event, Service
from ensue.chain import partition_of
from ensue.engine.lane import Lane, Part
from ensue.engine.readiness import ReadyLimits
from ensue.errors import StoreConflict, UsageError
from ensue.stores.postgres import PostgresStore
from ensue.stores.sqlite.transaction import SqliteTransaction
from ensue.testing import World

PARTITIONS = 8


class Rang(Event, topic="bells", key="bell"):
    bell: str
    number: int


class Tower:
    """A service that notes what it hears. before: called in the handler, before it is noted."""

    def __init__(self, *, lanes: int = 1, before: Callable[[Rang], object] = lambda event: None) -> None:
        self.service = Service("tower", publishes=[], lanes=lanes)
        self.heard: list[Rang] = []
        self.open = self.most_open = 0

        @self.service.on
        async def hear(event: Rang) -> None:
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            try:
                await asyncio.sleep(0)
                result = before(event)
                if asyncio.iscoroutine(result):
                    await result
                self.heard.append(event)
            finally:
                self.open -= 1


class RacedStore(CountingStore):
    """Loses the first `races` transactions that apply something to another process. sizes: of those, and the others."""

    races = 0

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[SqliteTransaction]:
        async with super().transaction(upkeep=upkeep, snapshot=snapshot) as transaction:
            yield transaction
            if snapshot and self.races:
                self.races -= 1
                raise StoreConflict("another transaction was in the way")


def events(each: int) -> list[Rang]:
    """Of many bells, so that every partition has some."""
    return [Rang(bell=f"bell {bell}", number=number) for number in range(each) for bell in range(40)]


@asynccontextmanager
async def tower(
    tmp_path: Path,
    of: Tower,
    sent: list[Rang],
    *,
    kind: type[CountingStore] = CountingStore,
    races: int = 0,
    **engine: float,
) -> AsyncIterator[tuple[World, CountingStore]]:
    """The tower, running, with everything in the log before it began to read."""
    store = kind(f"sqlite:///{tmp_path}/tower.db?synchronous=OFF", "tower")
    async with bench(tmp_path, partitions=PARTITIONS) as world:
        await world.broker.ensure_topic("bells", PARTITIONS)
        await Sender(world.broker, partitions=PARTITIONS).send(*sent)
        log = world.broker
        async with bench(
            tmp_path, of.service, broker=log, stores={"tower": store}, partitions=PARTITIONS, engine=config(**engine)
        ) as world:
            if isinstance(store, RacedStore):
                store.races = races
            await until(lambda: len(of.heard) >= len(sent), world, "all is heard")
            await world.settle()
            yield world, store


async def test_all_partitions_that_have_records_share_a_transaction(tmp_path: Path) -> None:
    of = Tower()
    async with tower(tmp_path, of, events(2)) as (_, store):
        assert of.most_open == 1, "two handlers at once"
        assert store.commits < 2 * PARTITIONS, "the beginnings of the partitions, and a few"


async def test_order_is_kept_in_each_partition(tmp_path: Path) -> None:
    of = Tower()
    async with tower(tmp_path, of, events(5), batch_records_max=7):
        pass
    for bell in range(40):
        assert [each.number for each in of.heard if each.bell == f"bell {bell}"] == list(range(5))


async def test_a_failing_message_costs_nobody_else_anything(tmp_path: Path) -> None:
    def fail(event: Rang) -> None:
        if event == Rang(bell="bell 3", number=1):
            raise ValueError("cracked")

    of = Tower(before=fail)
    sent = events(3)
    store = CountingStore(f"sqlite:///{tmp_path}/tower.db?synchronous=OFF", "tower")
    async with bench(tmp_path, of.service, stores={"tower": store}, partitions=PARTITIONS, engine=config()) as world:
        await Sender(world.broker, partitions=PARTITIONS).send(*sent)
        await world.settle()
        counters = [each.counters for each in (await world.runtimes["tower"].context.books.checkpoints()).values()]
        assert sum(each.applied for each in counters) == len(sent) - 2, "it and what waits behind it"
        [dead, waiting] = await letters(world, of.service)
        assert (dead.error_type, waiting.error_type) == ("ValueError", "")


@pytest.mark.parametrize("races", [1, 5])
async def test_a_lost_race_is_done_again_at_once_and_blamed_on_nobody(
    tmp_path: Path, races: int, caplog: pytest.LogCaptureFixture
) -> None:
    of = Tower()
    sent = events(2)
    async with tower(tmp_path, of, sent, kind=RacedStore, races=races) as (world, _):
        checkpoints = await world.runtimes["tower"].context.books.checkpoints()
        assert sum(each.counters.applied for each in checkpoints.values()) == len(sent)
        assert sum(each.counters.retries for each in checkpoints.values()) == 0
        assert not await letters(world, of.service)
    assert not [each for each in caplog.records if each.levelname == "WARNING"], (
        "the partitions began anew, with a pause"
    )


async def test_races_that_are_lost_for_ever_show_in_the_readiness(tmp_path: Path) -> None:
    """A message that always meets a deadlock is blamed by nobody: else nobody would know of it."""
    of = Tower()
    store = RacedStore(f"sqlite:///{tmp_path}/tower.db?synchronous=OFF", "tower")
    async with bench(tmp_path, of.service, stores={"tower": store}) as world:
        store.races = 10**9
        await Sender(world.broker).send(Rang(bell="a", number=1))
        await until_troubled(world, "tower", True)
        assert await world.runtimes["tower"].readiness() == [], "it may be over soon"
        whys = await world.runtimes["tower"].readiness(ReadyLimits(busy_s=0.0))  # one may be running at the moment
        assert ": for more than 0 s other transactions have been in the way: another transaction was in" in whys[-1]
        store.races = 0
        await until_troubled(world, "tower", False)
        assert await world.runtimes["tower"].readiness(ReadyLimits(busy_s=0.0)) == []


@pytest.mark.parametrize(("times", "retries"), [(1, 0), (2, 1)])
async def test_a_constraint_counts_as_a_failure_when_a_fresh_transaction_meets_it_too(
    tmp_path: Path, times: int, retries: int
) -> None:
    """The first time, another process may have put the row there after this one had looked."""
    left = [times]

    def insert(event: Rang) -> None:
        if left[0] and event.number == 1:
            left[0] -= 1
            raise sqlite3.IntegrityError("UNIQUE constraint failed: bells.number")

    of = Tower(before=insert)
    async with bench(tmp_path, of.service) as world:
        await Sender(world.broker).send(Rang(bell="a", number=1))
        await world.settle()
        [checkpoint] = (await world.runtimes["tower"].context.books.checkpoints()).values()
        assert checkpoint.counters.retries == retries
        assert len(of.heard) == 1


async def test_slow_handlers_make_small_transactions(tmp_path: Path) -> None:
    of = Tower(before=lambda event: asyncio.sleep(0.02))
    async with tower(tmp_path, of, events(1), batch_s=0.01) as (_, store):
        assert store.commits >= 40, "one message each: the budget was spent after the first"


async def test_what_is_waited_for_before_the_handlers_makes_no_transaction_small(tmp_path: Path) -> None:
    class SlowStore(CountingStore):
        @asynccontextmanager
        async def transaction(
            self, *, upkeep: bool = False, snapshot: bool = False
        ) -> AsyncIterator[SqliteTransaction]:
            async with super().transaction(upkeep=upkeep, snapshot=snapshot) as transaction:
                if snapshot:
                    await asyncio.sleep(0.05)  # for a place in the pool, say
                yield transaction

    of = Tower()
    async with tower(tmp_path, of, events(2), kind=SlowStore, batch_s=0.04) as (_, store):
        assert store.commits < 2 * PARTITIONS


async def test_lanes_run_beside_each_other(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """On a database that lets them: a handler of one partition waits for one of another."""
    both = asyncio.Event()

    async def meet(event: Rang) -> None:
        if of.open == 2:
            both.set()
        await asyncio.wait_for(both.wait(), 10)

    of = Tower(lanes=2, before=meet)
    store = PostgresStore(postgres_server.url("lanes"), "tower")
    names = {partition_of(name, 2): name for name in map(str, range(20))}
    try:
        async with bench(tmp_path, of.service, stores={"tower": store}, partitions=2, engine=config()) as world:
            sender = Sender(world.broker, partitions=2)
            await sender.send(*[Rang(bell=names[partition], number=1) for partition in (0, 1)])
            await until(lambda: len(of.heard) == 2, world, "both are heard")
            await world.settle()
            assert not await letters(world, of.service)
    finally:
        postgres_server.drop("lanes")


def test_a_number_of_lanes_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="lanes=0, expected 1 to 64"):
        Service("tower", lanes=0)


class Counted(Part):
    """Some records of one partition, for the rule alone."""

    def __init__(self, count: int) -> None:
        self.records = [None] * count  # type: ignore[list-item]  # nobody looks at them

    def cut(self, count: int) -> None:
        self.records = self.records[:count]


@pytest.mark.parametrize(
    ("room", "waiting", "taken"),
    [
        (500, [3, 4], [3, 4]),
        (10, [100, 2, 100], [4, 2, 4]),
        (10, [100], [10]),
        (9, [5, 5, 5], [3, 3, 3]),
        (2, [9, 9, 9], [1, 1]),
        (1, [9, 1], [1]),
    ],
)
async def test_each_partition_gets_an_equal_share_of_the_room(
    tmp_path: Path, room: int, waiting: list[int], taken: list[int]
) -> None:
    async with bench(tmp_path, Tower().service) as world:
        lane = Lane(world.runtimes["tower"].context, Random(0))
        assert [len(each.records) for each in lane._shares([Counted(each) for each in waiting])] == waiting
        lane._room = room  # as after a lost race
        parts = lane._shares([Counted(each) for each in waiting])
        assert [len(each.records) for each in parts] == taken
