"""Sagas by the thousand at once, on lines that lose and repeat, with processes that fail and go: all by one seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, Final

from sqlalchemy import Column, Integer, MetaData, String, Table, Text, func, select
from tests.sagas.stage import Line
from tests.unit.engine.workbench import config

from ensue import Command, Event, Failure, Saga, Service, TableRepository
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.errors import StoreUnavailable
from ensue.ports import Entry, Store
from ensue.saga.instance import ENDED, Instance, Status

PURSES: Final = 50
LOST, TWICE, FAILS = 0.002, 0.01, 0.06
#: Where a transaction, or what follows it, fails now and then.
POINTS: Final = frozenset(
    {
        "consumer.begun", "consumer.handled", "consumer.checkpoint_written", "consumer.committed", "relay.appended",
        "relay.saved", "timers.moved", "timers.committed", "letter.handled", "outside.called", "outside.written",
    }
)  # fmt: skip


class Taken(Event, topic="crowd.purses", key="purse"):
    purse: int


class Take(Command[Taken], service="bank", key="purse"):
    purse: int
    number: int
    sum: int


class GiveBack(Command[None], service="bank", key="purse"):
    purse: int
    number: int
    sum: int


class Empty(Failure, type_name="crowd.Empty"):
    left: int


class Later(Failure, type_name="crowd.Later"):
    pass


@dataclass(frozen=True)
class Buy:
    number: int
    purse: int
    sum: int
    how: str = ""
    """told: it waits for an event. later: its undo is refused at first. bug: it is parked until that is mended."""


class Go(Event, topic="crowd.go", key="number"):
    number: int


@dataclass
class Purchase:
    number: int
    status: str


@dataclass
class Purse:
    """taken, given: what was taken in all, and given back. refused: who got nothing, whose undo does nothing."""

    purse: int
    left: int
    taken: int
    given: int
    refused: str


BUYING, BANKING = MetaData(), MetaData()
PURCHASES: Final = Table(
    "crowd_purchases", BUYING, Column("number", Integer, primary_key=True), Column("status", String(20))
)
PURSE_ROWS: Final = Table(
    "crowd_purses", BANKING, *(Column(each, Integer, primary_key=each == "purse", autoincrement=False)
    for each in ("purse", "left", "taken", "given")), Column("refused", Text),
)  # fmt: skip


class Chance(Faults):
    """Fails a transaction, or what comes after it, by chance."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.failed = 0

    def point(self, name: str) -> None:
        if name in POINTS and self.random.random() < FAILS:
            self.failed += 1
            raise StoreUnavailable(f"by chance, at {name}")


class Noisy(Line):
    """Loses what it says that it has, and brings things twice."""

    def __init__(self, url: str, random: Random) -> None:
        super().__init__(url)
        self.random = random

    def _sent(self, entry: Entry) -> list[Entry]:
        roll = self.random.random()
        self.lost += roll < LOST
        return [entry] * (0 if roll < LOST else 2 if roll < LOST + TWICE else 1)


class Crowd:
    """Two services. purses: what is in one at first. mended: whether the bug is out."""

    def __init__(self, random: Random, purses: int) -> None:
        self.random = random
        self.mended = False
        self.late: set[int] = set()
        self.bank = bank = Service("bank", repositories=[TableRepository(Purse, PURSE_ROWS)], tables=BANKING)

        @bank.handles
        def take(purse: Purse | None, command: Take) -> tuple[Purse, Taken | Empty]:
            purse = purse or Purse(command.purse, purses, 0, 0, " ")
            if command.sum > purse.left:
                purse.refused += f"{command.number} "
                return purse, Empty(left=purse.left)
            purse.left -= command.sum
            purse.taken += command.sum
            return purse, Taken(purse=purse.purse)

        @bank.handles
        def give_back(purse: Purse, command: GiveBack) -> Later | None:
            if command.number in self.late:
                self.late.discard(command.number)
                return Later()
            if f" {command.number} " in purse.refused:
                return None
            purse.left += command.sum
            purse.given += command.sum
            return None

        self.shop = shop = Service(
            "crowd", repositories=[TableRepository(Purchase, PURCHASES)], tables=BUYING, calls=[Take, GiveBack]
        )

        @shop.local
        def begin(purchase: Purchase | None, new: Buy) -> Purchase:
            return purchase or Purchase(new.number, "NEW")

        @shop.local
        def give_up(purchase: Purchase, number: int) -> None:
            purchase.status = "GIVEN UP"

        @shop.local
        def close(purchase: Purchase, number: int, how: str) -> None:
            if how == "bug" and not self.mended:
                raise RuntimeError("a bug")
            purchase.status = "CLOSED"

        @shop.saga(deadline=timedelta(hours=1))
        async def buy(saga: Saga, new: Buy) -> None:
            await saga.local(begin, new, undo=saga.local(give_up, new.number))
            if new.how == "told":
                await saga.receive(Go)
            await saga.call(
                Take(purse=new.purse, number=new.number, sum=new.sum),
                undo=GiveBack(purse=new.purse, number=new.number, sum=new.sum),
                limit=timedelta(minutes=30),
            )
            if new.how == "later":
                raise Later
            saga.pivot()
            await saga.local(close, new.number, new.how)

        self.buy = buy

    def requests(self, total: int) -> list[Buy]:
        found = []
        for number in range(1, total + 1):
            how = self.random.choices(("", "told", "later", "cancelled", "bug"), (80, 10, 5, 4.9, 0.1))[0]
            found.append(Buy(number, self.random.randrange(PURSES), self.random.randint(1, 9), how))
        self.late = {each.number for each in found if each.how == "later" and each.number % 4 == 0}
        return found


class Hall:
    """The processes of a crowd, which stop and start."""

    def __init__(self, crowd: Crowd, stores: Mapping[str, Callable[[], Store]], log: str) -> None:
        self.crowd = crowd
        self.progress = asyncio.Event()
        self.lines = {each: Noisy(log, Random(crowd.random.random())) for each in ("crowd", "bank")}
        self.chances = {each: Chance(Random(crowd.random.random())) for each in self.lines}
        self._stores = stores
        self._stacks: dict[str, AsyncExitStack] = {}
        self.runtimes: dict[str, Runtime] = {}

    async def start(self, name: str) -> None:
        service = self.crowd.shop if name == "crowd" else self.crowd.bank
        runtime = Runtime(
            service, self._stores[name](), self.lines[name],
            Settings(database="", broker="", partitions=2, engine=config()),
            random=Random(0), tables=service.tables, progress=self.progress.set, faults=self.chances[name],
        )  # fmt: skip
        stack = self._stacks[name] = AsyncExitStack()
        await stack.enter_async_context(service.running(runtime))
        await runtime.ready()
        self.runtimes[name] = runtime

    async def stop(self, name: str) -> None:
        await self._stacks.pop(name).aclose()

    async def restart(self, name: str) -> None:
        await self.stop(name)
        await self.start(name)

    async def until(self, met: Callable[[], Any], limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    self.progress.clear()
                    if await met():
                        return
                    await self.progress.wait()
        except TimeoutError:
            raise AssertionError(f"not within {limit_s} s: {await self._left()}") from None

    async def _left(self) -> str:
        """Who has not ended, and how far each service has read and sent."""
        found = Counter((each.status.value, each.waits_for) for each in await self.listed())
        said = [f"{number} are {status}, for {waits_for}" for (status, waits_for), number in found.most_common(9)]
        for name, runtime in self.runtimes.items():
            loops = runtime.worker.loops.consumers if runtime.worker is not None else ()
            for each in loops:
                last = (await self.lines[name].bounds(each.partition.topic, each.partition.number)).last
                said.append(f"{each.partition} is at {each.offset} of {last}, settled: {each.settled}")
        return "; ".join(said)

    async def ended(self) -> int:
        books = self.runtimes["crowd"].context.books
        return sum([await books.saga_count(each) for each in ENDED])

    async def listed(self) -> list[Instance]:
        """As `ensue sagas list` reads them."""
        living = [each for each in Status if each not in ENDED]
        return await self.runtimes["crowd"].context.books.sagas(living, 1_000_000)

    async def purchases(self) -> dict[int, str]:
        async with self.crowd.shop.query() as session:
            rows = (await session.execute(select(PURCHASES))).all()
        return {row.number: row.status for row in rows}

    async def sums(self) -> tuple[int, int, int]:
        """What is left in the purses, what was taken, and what was given back."""
        async with self.crowd.bank.query() as session:
            row = (
                await session.execute(
                    select(*[func.sum(PURSE_ROWS.c[each]).label(each) for each in ("left", "taken", "given")])
                )
            ).one()
        return int(row.left), int(row.taken), int(row.given)


@asynccontextmanager
async def hall_of(crowd: Crowd, stores: Mapping[str, Callable[[], Store]], log: str) -> AsyncIterator[Hall]:
    hall = Hall(crowd, stores, log)
    keeper = MemoryBroker(log)
    await keeper.open()
    try:
        for name in ("crowd", "bank"):
            await hall.start(name)
        yield hall
    finally:
        for name in list(hall._stacks):
            await hall.stop(name)
        await keeper.close()
