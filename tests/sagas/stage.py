"""Processes on a stage: each service is one; it stops, dies at a named point, is started again; the log loses things.

One that dies writes nothing any more: what it was at is rolled back, and its memory goes with it. They all share one
process of the operating system; `tests/sagas/test_killed_shop.py` kills real ones.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import inspect, select
from tests.sagas.book import Book
from tests.sagas.shop import Customer, Order, Payment, Place, Shop
from tests.unit.engine.workbench import LIMIT_S, _until, config, settled, until

from ensue import Service
from ensue.adapters import make_store
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.books import Books
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.engine.timers import first_due
from ensue.errors import StoreUnavailable
from ensue.ports import Entry, Store
from ensue.saga.instance import ENDED, Instance, Status
from ensue.stores.sqlite import SqliteStore
from ensue.tables import TIMERS
from ensue.testing import World
from ensue.testing.world import WorldClock


class Trouble:
    """What the functions have come to, and what goes wrong there. errors: how often, and what is raised."""

    def __init__(self) -> None:
        self.errors: dict[str, tuple[int, Callable[[], Exception]]] = {}
        self._met: dict[str, list[str]] = defaultdict(list)

    def meets(self, what: str, attempt: str) -> None:
        """attempt: the same one counts once; empty: each call counts."""
        met = self._met[what]
        attempt = attempt or str(len(met))
        if attempt not in met:
            met.append(attempt)
        times, error = self.errors.get(what, (0, Exception))
        if met.index(attempt) < times:
            raise error()

    def met(self, what: str) -> int:
        return len(self._met[what])


class Death(Faults):
    """Has a process die at a point, once something has been met. As far as its database can tell."""

    def __init__(self, point: str, after: Callable[[], bool]) -> None:
        super().__init__(point)
        self._where, self.after = point, after
        self.store: Mortal | None = None

    def point(self, name: str) -> None:
        if name == self._where and self.store is not None and not self.store.dead and self.after():
            self.store.dead = True
            self.store.died()
            raise StoreUnavailable(f"the process has died at {name}")


class Mortal:
    """The database as one process has it: none any more, once that has died."""

    def __init__(self, store: Store, died: Callable[[], None]) -> None:
        self._store = store
        self.died = died
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        if self.dead and name not in ("close", "capabilities", "source"):
            raise StoreUnavailable("this process has died")
        return getattr(self._store, name)


class Line(MemoryBroker):
    """What a process sends goes over this. loses: the first record of which it is true, which counts as sent. repeats:
    those of which it is true come twice."""

    loses: Callable[[Entry], bool] | None = None
    repeats: Callable[[Entry], bool] | None = None
    lost = repeated = 0

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        sent = {where: [each for entry in entries for each in self._sent(entry)] for where, entries in batches.items()}
        await super()._append(source, {where: entries for where, entries in sent.items() if entries})
        return [(await self.bounds(*where)).last for where in batches]

    def _sent(self, entry: Entry) -> list[Entry]:
        if self.loses is not None and self.loses(entry):
            self.loses = None
            self.lost += 1
            return []
        if self.repeats is not None and self.repeats(entry):
            self.repeated += 1
            return [entry, entry]
        return [entry]


class Stage:
    """url: of the database of sales, where the sagas are; the others have SQLite. Without one, time is virtual.

    services: to be played instead of the shop's. trouble: what the shop's functions tell."""

    def __init__(
        self,
        directory: Path,
        url: str = "",
        services: Mapping[str, Service] | None = None,
        trouble: Trouble | None = None,
    ) -> None:
        self.trouble, self.book = trouble or Trouble(), Book()
        self.shop = Shop(self.book, self.trouble.meets)
        self.services = self.shop.services if services is None else services
        self.clock = None if url else WorldClock()
        self.log = f"memory:stage-{secrets.token_hex(8)}"
        self.world = World(MemoryBroker(self.log), self.clock)
        self.lines: dict[str, Line] = {name: Line(self.log) for name in self.services}
        self.deaths: dict[str, Death] = {}
        self.faults: dict[str, Faults] = {}  # of those that do not die
        self.directory, self._url = directory, url
        self._running: dict[str, AbstractAsyncContextManager[Runtime]] = {}

    # --------------------------------------------------------------------------------------------------- processes

    def store_of(self, name: str) -> Store:
        if self._url and name == "sales":
            return make_store(self._url, name)
        now = time.time if self.clock is None else self.clock.now
        return SqliteStore(f"sqlite:///{self.directory}/{name}.db?synchronous=OFF", name, now=now)

    async def start(self, *names: str) -> None:
        for name in names or self.services:
            death = self.deaths.get(name)
            mortal: Any = Mortal(self.store_of(name), self.world.progressed)
            if death is not None:
                death.store = mortal
            self._running[name] = self.services[name].running(self._runtime(self.services[name], mortal, death))
            self.world.runtimes[name] = runtime = await self._running[name].__aenter__()
            await runtime.ready()

    @asynccontextmanager
    async def another(self, service: Service) -> AsyncIterator[Runtime]:
        """A second process of a service of that name, perhaps with other code."""
        name = service.name
        runtime = self._runtime(service, self.store_of(name), None)
        async with service.running(runtime):
            await runtime.ready()
            self.world.runtimes[f"another {name}"] = runtime
            try:
                yield runtime
            finally:
                del self.world.runtimes[f"another {name}"]

    def _runtime(self, service: Service, store: Any, death: Death | None) -> Runtime:
        engine = config() if death is None else config(stop_limit_s=0.01)  # nobody waits for what is dead
        own = self.lines[service.name] if service is self.services[service.name] else MemoryBroker(self.log)
        return Runtime(
            service, store, own, Settings(database="", broker="", partitions=2, engine=engine),
            clock=self.clock, random=Random(0), tables=service.tables, progress=self.world.progressed,
            faults=death or self.faults.get(service.name),
        )  # fmt: skip

    async def stop(self, name: str) -> None:
        """As a process that is told to."""
        del self.world.runtimes[name]
        await self._running.pop(name).__aexit__(None, None, None)

    async def dies(self, name: str) -> None:
        """Return when it has died, and what it held is known to be nobody's, as of a process that is gone."""
        death, runtime = self.deaths[name], self.world.runtimes[name]
        mortal = death.store
        assert mortal is not None
        assert runtime.worker is not None
        worker = runtime.worker.name
        await until(lambda: mortal.dead, self.world, f"{name} dies")
        await self.stop(name)
        del self.deaths[name]
        store = self.store_of(name)
        await store.open()
        await Books(store, name, Random(0)).bury(worker)
        await store.close()

    # --------------------------------------------------------------------------------------------------------- time

    async def wait(self, seconds: float) -> None:
        """Let time pass. Where a database has its own clock, what waits there is moved nearer instead."""
        if self.clock is not None:
            await self.world.advance(seconds=seconds)
            return
        await settled(self.world)
        while (due_s := await self._due_s()) <= seconds:
            await self._nearer(max(due_s, 0.0))
            await _until(self.nothing_is_due, self.world, "what is due goes out")
            await settled(self.world)
            seconds -= max(due_s, 0.0)
        await self._nearer(seconds)

    async def _due_s(self) -> float:
        found = [await first_due(each.store) - await each.store.now() for each in self.world.runtimes.values()]
        return min(found, default=math.inf)

    async def nothing_is_due(self) -> bool:
        return await self._due_s() > 0

    async def _nearer(self, seconds: float) -> None:
        for runtime in self.world.runtimes.values():
            async with runtime.store.transaction() as transaction:
                rows = await runtime.store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=99)
                await transaction.update_rows(TIMERS, [(row[0], row[1] - seconds, *row[2:]) for row in rows])
            runtime.context.timer_set.set()

    # -------------------------------------------------------------------------------------------------------- sagas

    async def begin(self, *orders: Place) -> None:
        async with self.shop.sales.step() as step:
            for each in orders:
                step.start(self.shop.place, each, id=each.order)

    async def saga(self, order: str = "o-1") -> Instance:
        found = await self.shop.sales.runtime.context.books.saga(f"place:{order}")
        assert found is not None, f"saga place:{order} has not begun"
        return found

    async def at_rest(self, order: str = "o-1") -> Instance:
        """Let time pass until it has ended, or is parked, or waits for what no time brings."""
        for _ in range(40):
            await settled(self.world)
            saga = await self.saga(order)
            due_s = await self._due_s()
            if saga.status in (*ENDED, Status.PARKED) or due_s == math.inf:
                return saga
            await self.wait(max(due_s, 0.0))
        raise AssertionError(f"{saga.key} goes on and on: {saga.status}, it waits for {saga.waits_for}")

    async def people(self, what: str, order: str = "o-1") -> None:
        """A person orders something."""
        async with self.shop.sales.step() as step:
            {"cancel": step.cancel_saga, "retry": step.retry_saga}[what](self.shop.place, order)
        await settled(self.world)

    @property
    def dropped(self) -> int:
        return self.world.runtimes["sales"].context.dispatcher.sagas.dropped

    # -------------------------------------------------------------------------------------------------------- books

    async def rows(self, service: Service, kind: type[Any]) -> dict[str, Any]:
        async with service.query() as session:
            [name] = inspect(kind).primary_key
            return {getattr(each, name.key): each for each in await session.scalars(select(kind))}

    async def found(self, order: str = "o-1") -> tuple[str, str, str, bool, str]:
        """Where a saga, its order, its payment, its credit, and the provider's money for it are."""
        orders, payments = await self.rows(self.shop.sales, Order), await self.rows(self.shop.till, Payment)
        customers = await self.rows(self.shop.credit, Customer)
        return (
            (await self.saga(order)).status.value,
            orders[order].status if order in orders else "",
            payments[order].status if order in payments else "",
            any(f" {order} " in each.reserved for each in customers.values()),
            self.book.state(order),
        )


@asynccontextmanager
async def on_stage(
    directory: Path, url: str = "", services: Mapping[str, Service] | None = None, trouble: Trouble | None = None
) -> AsyncIterator[Stage]:
    """Nothing runs yet."""
    stage = Stage(directory, url, services, trouble)
    async with asyncio.timeout(LIMIT_S * 3):
        await stage.world.broker.open()
        try:
            yield stage
        finally:
            for name in list(stage.world.runtimes):
                await stage.stop(name)
            await stage.world.broker.close()
