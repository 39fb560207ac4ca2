"""The relay reads the next batch of a backlog while the last one is on its way; a failure then skips nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.unit.engine.test_relay import Rung, Tower
from tests.unit.engine.workbench import LIMIT_S, bench, config

from ensue.brokers.memory import MemoryBroker
from ensue.errors import BrokerUnavailable
from ensue.message import OutboxRecord
from ensue.ports import Entry
from ensue.stores.sqlite import SqliteStore

BATCH = 5


class Store(SqliteStore):
    """Notes from where its outbox is read; `ahead` is set when it is read beyond what was sent."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "rings")
        self.sent = 0
        self.ahead = asyncio.Event()

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        if position > self.sent:
            self.ahead.set()
        return await super().outbox_after(position, limit)


class Broker(MemoryBroker):
    """An append of a full batch waits until the next one is read; every other one fails then."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self.waited = self.failed = 0
        self.away = False

    async def topics(self) -> Mapping[str, int]:
        if self.away:
            self.away = False
            raise BrokerUnavailable("the broker is away for a moment")
        return await super().topics()

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        entries = [each for (topic, _), found in batches.items() if topic == "bells" for each in found]
        if source == self._store.source and len(entries) == BATCH:
            async with asyncio.timeout(LIMIT_S):
                await self._store.ahead.wait()
            self._store.ahead.clear()
            self.waited += 1
            if self.waited % 2:
                self.failed += 1
                self.away = True
                raise BrokerUnavailable("the broker is away for a moment")
            self._store.sent = entries[-1].position
        await super().append_many(source, batches)


async def test_a_batch_that_fails_while_the_next_is_read_is_sent_again_first(tmp_path: Path) -> None:
    tower = Tower()
    store = Store(f"sqlite:///{tmp_path}/rings.db?synchronous=OFF")
    broker = Broker(store)
    engine = config(batch_records_max=BATCH)
    async with bench(
        tmp_path, tower.rings, tower.hears, broker=broker, stores={"rings": store}, engine=engine
    ) as world:
        await tower.ring(*range(23), bells=3)
        await world.settle(20.0)
        assert [each.number for each in await world.published(Rung)] == list(range(23))
    assert broker.failed == 4
    assert tower.heard == {f"bell-{bell}": list(range(bell, 23, 3)) for bell in range(3)}
