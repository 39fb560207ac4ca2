"""A service that publishes numbers and one that shows them, for `benchmarks.tokens`; which is a process, too.

`python -m benchmarks.tokens_side`: works on the second one until its standard input ends, then prints when it has
committed which number, by the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Event, Service, Step
from ensue.engine.runtime import Runtime
from ensue.ports import Row, Table
from ensue.stores.sqlite import SqliteStore
from ensue.stores.sqlite.transaction import SqliteTransaction


class NumberTold(Event, topic="told-numbers", key="key"):
    key: str
    number: int


class Base(DeclarativeBase): ...


class Shown(Base):
    __tablename__ = "shown"
    number: Mapped[int] = mapped_column(primary_key=True)


class StampedStore(SqliteStore):
    """Notes when a transaction that has handled numbers is committed, and how often rows are asked for."""

    def __init__(self, url: str, service: str) -> None:
        super().__init__(url, service)
        self.handled: list[int] = []
        self.committed: dict[int, float] = {}
        self.asked = 0

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[SqliteTransaction]:
        async with super().transaction(upkeep=upkeep, snapshot=snapshot) as transaction:
            yield transaction
        if not upkeep and self.handled:
            now = time.monotonic()
            self.committed |= dict.fromkeys(self.handled, now)
            self.handled.clear()

    def rows(self) -> Any:
        return _Counting(self, super().rows())


class _Counting:
    def __init__(self, store: StampedStore, rows: Any) -> None:
        self._store = store
        self._rows = rows

    async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        self._store.asked += 1
        found: Sequence[Row] = await self._rows.get(table, ids)
        return found

    async def find(self, *arguments: Any, **options: Any) -> Sequence[Row]:
        self._store.asked += 1
        found: Sequence[Row] = await self._rows.find(*arguments, **options)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)


def showing() -> tuple[Service, Runtime, StampedStore]:
    """The service that shows, by its settings, on a store that takes notes."""
    from ensue.adapters import make_broker

    service = Service("shown", tables=Base.metadata, publishes=[])
    settings = service.settings()
    store = StampedStore(settings.database, service.name)

    @service.on
    async def show(event: NumberTold, step: Step, session: AsyncSession) -> None:
        session.add(Shown(number=event.number))
        store.handled.append(event.number)

    return service, Runtime(service, store, make_broker(settings.broker), settings, tables=Base.metadata), store


async def main() -> None:
    service, runtime, store = showing()
    async with service.running(runtime):
        await runtime.ready()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(store.committed))


if __name__ == "__main__":
    asyncio.run(main())
