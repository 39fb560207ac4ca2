"""Services on a bench: their store, broker and clock in reach, and a sender whose records a test writes by hand."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from ensue.app import Service
from ensue.brokers.memory import MemoryBroker, MemoryReader
from ensue.chain import partition_of
from ensue.codec import encode_envelope
from ensue.config import EngineConfig, Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.event import event_type
from ensue.message import (
    LOST,
    TICK,
    DeadLetter,
    DeadLetterState,
    Envelope,
    Garbage,
    HeldPartition,
    Message,
    OutboxRecord,
)
from ensue.ports import Broker, Clock, Store
from ensue.retry import Retry
from ensue.seal import sealed
from ensue.stores.sqlite import SqliteStore
from ensue.stores.sqlite.transaction import SqliteTransaction
from ensue.testing import World

#: Everything soon, nothing by chance.
QUICK = EngineConfig(
    poll_interval_s=0.05,
    tick_first_s=0.02,
    tick_max_s=0.1,
    resend_interval_s=0.05,
    lease_ttl_s=3.0,
    relay_save_interval_s=0.02,
    batch_s=60.0,  # or a slow machine cuts a batch by itself
    retry=Retry(attempts_max=3, first_delay_s=0.001, factor=1.0, delay_max_s=0.001),
)
LIMIT_S = 30.0


def store_of(directory: Path, name: str) -> SqliteStore:
    return SqliteStore(f"sqlite:///{directory}/{name}.db?synchronous=OFF", name)


@asynccontextmanager
async def bench(
    directory: Path,
    *services: Service,
    broker: Broker | None = None,
    brokers: Mapping[str, Broker] | None = None,
    stores: Mapping[str, Store] | None = None,
    engine: EngineConfig = QUICK,
    partitions: int = 1,
    clock: Clock | None = None,
    faults: Faults | None = None,
) -> AsyncIterator[World]:
    """Run services on `directory` until the block ends; all on one broker object but those named in `brokers`."""
    world = World(_Shared(broker or MemoryBroker()))
    await world.broker.open()
    try:
        for service in services:
            runtime = Runtime(
                service,
                (stores or {}).get(service.name) or store_of(directory, service.name),
                (brokers or {}).get(service.name, world.broker),
                Settings(database="", broker="", partitions=partitions, engine=engine),
                clock=clock,
                random=Random(0),
                tables=service.tables,
                progress=world.progressed,
                faults=faults,
            )
            world.runtimes[service.name] = runtime
        async with _all_running(services, world):
            for runtime in world.runtimes.values():
                await runtime.ready()
            yield world
    finally:
        await world.broker.really_close()  # type: ignore[attr-defined]  # a _Shared


@asynccontextmanager
async def _all_running(services: Sequence[Service], world: World) -> AsyncIterator[None]:
    if not services:
        yield
        return
    async with services[0].running(world.runtimes[services[0].name]), _all_running(services[1:], world):
        yield


class ReadByBroker(MemoryBroker):
    """A log in memory; a subclass can do something else when one of its readers reads."""

    def reader(self, topic: str, partition: int, after: int) -> MemoryReader:
        broker = self

        class Reader(MemoryReader):
            async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
                return await broker.read_by(self, super().read(limit, wait_s))

        return Reader(self, topic, partition, after)

    async def read_by(
        self, reader: MemoryReader, reading: Coroutine[Any, Any, Sequence[Message | Garbage]]
    ) -> Sequence[Message | Garbage]:
        """reading: the healthy read, not begun."""
        return await reading


class _Shared:
    """One broker object for several runtimes, each of which opens and closes it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def close(self) -> None:
        pass

    async def really_close(self) -> None:
        await self._broker.close()


class Sender:
    """A source in another world: it numbers and chains its records, and a test decides what of them reaches the log."""

    def __init__(self, broker: Broker, source: str = "elsewhere/1", partitions: int = 1) -> None:
        self.source = source
        self._broker = broker
        self._partitions = partitions
        self._position = 0
        self._heads: dict[tuple[str, int], int] = defaultdict(int)

    def record(self, event: object) -> OutboxRecord:
        """The next record, not sent."""
        spec = event_type(type(event))
        key = spec.key_of(event)
        where = (spec.topic, partition_of(key, self._partitions))
        self._position += 1
        envelope = Envelope(f"{self.source}-{self._position}", spec.type)
        record = OutboxRecord(
            *where, key, encode_envelope(envelope), spec.write(event), self._position, self._heads[where]
        )
        self._heads[where] = self._position
        return record

    def foreign(self, event: object, message_id: str) -> OutboxRecord:
        """A record without a chain."""
        spec = event_type(type(event))
        key = spec.key_of(event)
        envelope = encode_envelope(Envelope(message_id, spec.type))
        return OutboxRecord(spec.topic, partition_of(key, self._partitions), key, envelope, spec.write(event))

    def raw(self, record: OutboxRecord, data: bytes) -> OutboxRecord:
        """The same record with other data."""
        return OutboxRecord(
            record.topic, record.partition, record.key, record.envelope, data, record.position, record.previous
        )

    def tick(self, topic: str, partition: int = 0) -> OutboxRecord:
        head = self._heads[topic, partition]
        return OutboxRecord(topic, partition, "", encode_envelope(Envelope("tick", TICK)), b"", head, head)

    def lost(self, topic: str, after: int, through: int, partition: int = 0) -> OutboxRecord:
        data = b'{"after":%d,"through":%d,"before":0}' % (after, through)
        return OutboxRecord(topic, partition, "", encode_envelope(Envelope("lost", LOST)), data, through, through)

    async def append(self, *records: OutboxRecord) -> None:
        """Into the log, in one append where they are of one partition."""
        batches: dict[tuple[str, int], list[OutboxRecord]] = {}
        for record in records:
            where = record.topic, record.partition
            ours = record.position != 0 or b'"type":"ensue.' in record.envelope
            batches.setdefault(where, []).append(sealed(*where, self.source, record) if ours else record)
        await self._broker.append_many(self.source, batches)

    async def send(self, *events: object) -> None:
        await self.append(*[self.record(each) for each in events])


class CountingStore(SqliteStore):
    """Counts the transactions that the engine begins, and those that commit; its upkeep left out."""

    transactions = 0
    commits = 0

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[SqliteTransaction]:
        self.transactions += not upkeep
        async with super().transaction(upkeep=upkeep) as transaction:
            yield transaction
        self.commits += not upkeep


async def letters(world: World, service: Service, *states: DeadLetterState) -> Sequence[DeadLetter]:
    return await world.runtimes[service.name].context.books.letters(None, states)


async def until(condition: Callable[[], bool], world: World, why: str = "") -> None:
    """Wait for a condition that changes with the world's progress."""

    async def met() -> bool:
        return condition()

    await _until(met, world, why)


async def settled(world: World, timeout_s: float = 2 * LIMIT_S) -> None:
    """As `World.settle`, also where a record gets its position only when it is read: nobody knows of it before."""
    known: list[object] = []
    while True:
        for runtime in world.runtimes.values():
            await runtime.store.outbox_after(0, 1_000_000)
        found: list[object] = [dict(await each.store.outbox_heads()) for each in world.runtimes.values()]
        if found == known:
            return
        known = found
        await world.settle(timeout_s)


async def until_letters(world: World, service: Service, count: int, *states: DeadLetterState) -> None:
    """Wait until so many are set aside."""

    async def met() -> bool:
        return len(await letters(world, service, *states)) >= count

    await _until(met, world, f"{count} letters of {service.name}")


async def until_troubled(world: World, service: str, troubled: bool) -> None:
    """Wait until a consumer of the service cannot go on, or until all of them can: neither is progress."""
    worker = world.runtimes[service].worker
    assert worker is not None
    async with asyncio.timeout(LIMIT_S):
        while any(each.trouble for each in worker.loops.consumers) is not troubled:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


async def until_held(world: World, service: Service, count: int) -> list[HeldPartition]:
    """What the database says of the held partitions of a service, as soon as they are so many."""
    books = world.runtimes[service.name].context.books

    async def met() -> bool:
        return len(await books.held()) == count

    await _until(met, world, f"{count} held partitions of {service.name}")
    return await books.held()


async def _until(met: Callable[[], Awaitable[bool]], world: World, why: str) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                world._progress.clear()
                if await met():
                    return
                await world._progress.wait()
    except TimeoutError:
        raise AssertionError(f"not within {LIMIT_S} s: {why}") from None


def config(**changes: Any) -> EngineConfig:
    return dataclasses.replace(QUICK, **changes)
