"""What the tests of the command line share: its results, a running process, and services that work in this process."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from sqlalchemy import select
from tests.unit.cli.services import Entry, ledger

from ensue import Service
from ensue.adapters import make_broker
from ensue.engine.books import Books
from ensue.engine.runtime import Runtime
from ensue.ports import Store

ROOT = Path(__file__).parents[3]
SERVICES = "tests.unit.cli.services"
TILL, LEDGER = f"{SERVICES}:till", f"{SERVICES}:ledger"
LIMIT_S = 60.0


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Running:
    """`ensue run` as a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, text: str, times: int = 1) -> None:
        """Read its log until a text came for the n-th time; pytest-timeout bounds the wait."""
        for line in cast(IO[str], self.process.stderr):
            self.seen += line
            if self.seen.count(text) >= times:
                return
        raise AssertionError(f"it ended before it said {text!r}:\n{self.seen}")

    def end(self) -> int:
        """Wait for its end; return the exit status."""
        self.seen += self.process.communicate(timeout=LIMIT_S)[1]
        return self.process.returncode


async def work_until(done: Callable[[], Awaitable[bool]], *services: Service) -> None:
    """Run services in this process until `done`, which is asked after each thing that one of them did."""
    progressed = asyncio.Event()
    runtimes: list[Runtime] = []
    try:
        for service in services:
            settings = service.settings()
            store, broker = service.make_store(), make_broker(settings.broker)
            runtime = Runtime(service, store, broker, settings, tables=service.tables, progress=progressed.set)
            runtimes.append(runtime)
            await runtime.start()
        async with asyncio.timeout(LIMIT_S):
            while True:
                progressed.clear()  # before looking: what happens meanwhile is not slept through
                if await done():
                    return
                await progressed.wait()
    finally:
        for runtime in runtimes:
            await runtime.stop()


@asynccontextmanager
async def books_of(service: Service) -> AsyncIterator[tuple[Store, Books]]:
    """A service's database as another process opens it, and what Ensue itself keeps in it."""
    store = service.make_store()
    await store.open()
    try:
        yield store, Books(store, service.name)
    finally:
        await store.close()


async def applied(service: Service = ledger) -> int:
    """How many messages a service has applied so far."""
    async with books_of(service) as (_, books):
        return sum(each.counters.applied for each in (await books.checkpoints()).values())


def entries() -> list[tuple[str, int]]:
    """What the ledger has entered, in order."""

    async def look() -> list[tuple[str, int]]:
        async with ledger.running(work=False), ledger.query() as session:
            rows = await session.execute(select(Entry.customer, Entry.amount).order_by(Entry.id))
            return [(customer, amount) for customer, amount in rows]

    return asyncio.run(look())
