"""The Ensue side of the pipeline benchmarks: a backlog in an embedded log, drained by a real service.

The service runs as it does in production, Runtime and Worker with leases, checkpoints, gap check, relay and ticks, over
the SQLite store (synchronous FULL) and the embedded broker (NORMAL, its default). Only the web server is missing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from benchmarks import workload
from benchmarks.rounds import Sample, Stopwatch
from benchmarks.workload import Account, BalanceChanged, TransferMade, balance_changed
from ensue import Event, Service, Step, TableRepository
from ensue.brokers.embedded import EmbeddedBroker
from ensue.chain import partition_of
from ensue.codec import encode_envelope
from ensue.config import EngineConfig, Settings
from ensue.engine.lookup import records_between
from ensue.engine.runtime import Runtime
from ensue.engine.worker import Worker
from ensue.event import event_type
from ensue.message import Envelope, Message, OutboxRecord
from ensue.ports import Broker
from ensue.seal import sealed
from ensue.stores.sqlite import SqliteStore

SOURCE = "source/00000000"
#: Of all events in a log: new enough for nobody to be warned that they leave it soon.
_TIME = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
_ENOUGH_S = 600.0


def make_service() -> Service:
    """One entity changed and one event published for each event; the entity is a plain dataclass."""
    service = Service(
        "bench",
        publishes=[BalanceChanged],
        repositories=[TableRepository(Account, workload.accounts)],
        tables=workload.metadata,
    )

    @service.on
    def add(account: Account, event: TransferMade, step: Step) -> None:
        account.add(event.amount)
        step.publish(balance_changed(account, event))

    return service


def make_runtime(
    service: Service,
    directory: Path,
    *,
    partitions: int = 1,
    engine: EngineConfig | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Runtime:
    settings = Settings(
        database=f"sqlite:///{directory}/service.db",
        broker=f"sqlite:///{directory}/broker.db",
        partitions=partitions,
        engine=engine or EngineConfig(),
    )
    store = SqliteStore(settings.database, service.name)
    return Runtime(
        service, store, EmbeddedBroker(settings.broker), settings,
        tables=service.tables, progress=progress, tracing=service.tracing,
    )  # fmt: skip


async def make_template(
    directory: Path, events: Iterable[TransferMade], service: Service, *, partitions: int = 1, traceparent: str = ""
) -> None:
    """Make the service's database with all accounts, and a log that holds `events`. traceparent: of each of them."""
    runtime = make_runtime(service, directory, partitions=partitions)
    await runtime.start(work=False)
    try:
        await append_events(runtime.broker, events, partitions=partitions, traceparent=traceparent)
    finally:
        await runtime.stop()
    connection = sqlite3.connect(directory / "service.db")
    with connection:
        connection.executemany(workload.INSERT_ACCOUNT, workload.account_rows())
    connection.close()


async def append_events(
    broker: Broker, events: Iterable[Event], *, partitions: int, after: int = 0, traceparent: str = ""
) -> int:
    """Append as the relay of a source does, with positions from after + 1 on; return the last position.

    `after` must be 0 or what an earlier call returned for the same log: the chain goes on.
    """
    heads: dict[tuple[str, int], int] = {}
    position = after
    remaining = iter(events)
    while chunk := list(islice(remaining, 2000)):
        batches: dict[tuple[str, int], list[OutboxRecord]] = {}
        for event in chunk:
            position += 1
            spec = event_type(type(event))
            key = spec.key_of(event)
            place = (spec.topic, partition_of(key, partitions))
            if after and place not in heads:
                heads[place] = await _last_position(broker, *place)
            envelope = Envelope(
                f"0123456789abcdef-{position:x}", spec.type, _TIME, f"fedcba9876543210-{position:x}",
                traceparent=traceparent,
            )  # fmt: skip
            record = OutboxRecord(
                *place, key, encode_envelope(envelope), spec.write(event), position, heads.get(place, 0)
            )
            heads[place] = position
            batches.setdefault(place, []).append(sealed(*place, SOURCE, record))
        await broker.append_many(SOURCE, batches)
    return position


async def _last_position(broker: Broker, topic: str, partition: int) -> int:
    last = (await broker.bounds(topic, partition)).last
    found = await records_between(broker, topic, partition, last - 1, last)
    return found[0].position if found and isinstance(found[0], Message) else 0


def drain(directory: Path, service: Service, events: int, *, partitions: int = 1, batch_records: int = 500) -> Sample:
    """Let the service work off its backlog; the clock stops when its own `events` events are in the log too."""
    engine = EngineConfig(batch_records_max=batch_records)
    return asyncio.run(_drain(directory, service, events, partitions, engine))


async def _drain(directory: Path, service: Service, events: int, partitions: int, engine: EngineConfig) -> Sample:
    finished = asyncio.Event()
    worker: Worker | None = None

    def progress() -> None:
        if worker is not None and worker.loops.relay is not None and worker.loops.relay.position >= events:
            finished.set()

    runtime = make_runtime(service, directory, partitions=partitions, engine=engine, progress=progress)
    await runtime.start(work=False)
    try:
        worker = Worker(runtime.context)
        watch = Stopwatch()
        await worker.start()
        async with asyncio.timeout(_ENOUGH_S):
            await finished.wait()
        sample = watch.stop(events)
        await worker.stop()
    finally:
        await runtime.stop()
    return sample


def check(
    directory: Path, events: Sequence[TransferMade], *, outbox: str = "ensue_outbox", publishes: bool = True
) -> None:
    """Nothing counts that did not do the work: every event is in its account and has its follower in the outbox."""
    connection = sqlite3.connect(directory / "service.db")
    [(total, changes)] = connection.execute("SELECT sum(balance), sum(changes) FROM accounts")
    [(published,)] = connection.execute(f"SELECT count(*) FROM {outbox}")
    connection.close()
    found = (total, changes, published)
    expected = (sum(event.amount for event in events), len(events), len(events) if publishes else 0)
    if found != expected:
        raise AssertionError(f"balances, changes and published events are {found}, expected {expected}")
