"""However large a backlog's records are: the relay reads and appends so many bytes at once; readiness reads none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.unit.engine.workbench import bench, until

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.engine import portion, sending
from ensue.engine.readiness import ReadyLimits
from ensue.errors import BrokerUnavailable
from ensue.message import OutboxRecord
from ensue.ports import Entry
from ensue.stores.sqlite import SqliteStore

RECORD_BYTES, BYTES_MAX = 10_000, 100_000


class Hauled(Event, topic="t-hauled", key="number"):
    number: int
    load: str


class Store(SqliteStore):
    """Notes how many bytes each read of the outbox returned."""

    reads: list[int]

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        found = await super().outbox_after(position, limit)
        self.reads.append(sum(len(each.data) for each in found))
        return found


class Broker(MemoryBroker):
    """Notes how many bytes each append brought; away until it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[int] = []
        self.away = True

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.appends.append(sum(len(each.data) for entries in batches.values() for each in entries))
        await super().append_many(source, batches)


async def test_a_backlog_of_large_records_is_read_and_appended_in_small_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portion, "READ_BYTES", BYTES_MAX)
    monkeypatch.setattr(sending, "APPEND_BYTES_MAX", BYTES_MAX)
    service = Service("haulier")
    seen: list[int] = []

    @service.on
    async def haul(event: Hauled) -> None:
        seen.append(event.number)

    store, broker = Store(f"sqlite:///{tmp_path}/h.db?synchronous=OFF", "haulier"), Broker()
    store.reads = []
    async with bench(tmp_path, service, broker=broker, stores={"haulier": store}, partitions=2) as world:
        async with service.step() as step:
            for number in range(200):
                step.publish(Hauled(number=number, load="x" * RECORD_BYTES))
        reasons = await world.runtimes["haulier"].readiness(ReadyLimits(backlog_max=150))
        assert reasons == ["more than 150 outbox records are not sent yet"]
        assert max(store.reads) < 100 * RECORD_BYTES
        broker.away = False
        await until(lambda: len(seen) == 200, world)
    # The first read cannot know how large they are; each other one has the record as well on which it goes on.
    first = next(at for at, each in enumerate(store.reads) if each)
    assert max(store.reads[first + 1 :]) <= BYTES_MAX + 2 * RECORD_BYTES
    assert max(broker.appends) <= BYTES_MAX + 2 * RECORD_BYTES
