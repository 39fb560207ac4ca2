"""What a service's database and the log say of it, beside the running service. Takes and changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ensue.addresses import masked
from ensue.engine.lookup import each_between
from ensue.engine.loops import RELAY
from ensue.engine.schema import Numbers
from ensue.engine.worker import is_gone
from ensue.message import (
    LOST,
    TICK,
    Checkpoint,
    Counters,
    Gap,
    Garbage,
    HeldPartition,
    LeaseTable,
    Message,
    Partition,
    Stranger,
)
from ensue.operations.asked import Asked
from ensue.operations.opening import Opened
from ensue.ports import Broker

#: With no more than this left to read, what is left is looked at: ticks and duplicates are no lag.
_LOOK_MAX = 500
#: How long each part may take to answer, seconds.
ANSWER_S = 5.0


class OutboxStatus(msgspec.Struct):
    """head: last position written. sent: known to be in the log (stored now and then, so it may lag by a moment).
    held: partitions that wait behind a record which the broker does not take; others may be sent further than `sent`.
    """

    head: int
    sent: int
    unsent: int
    held: list[HeldPartition]


class PartitionStatus(msgspec.Struct):
    """One partition of one topic as this subscription has read it. `worker` holds its lease; null: nobody does.

    lag: records that are still to be dealt with; null when the log cannot be asked. dead_letters: by state.
    doubted: sources whose last word in the log lies below what was applied of them: what they send is skipped.
    """

    topic: str
    partition: int
    offset: int
    log_end: int | None
    lag: int | None
    worker: str | None
    watermarks: dict[str, int]
    gaps: list[Gap]
    doubted: list[str]
    dead_letters: dict[str, int]
    counters: Counters


class Doubted(NamedTuple):
    """A source that writes below what was applied of it: all that is skipped. watermark: up to where it is applied."""

    topic: str
    partition: int
    source: str
    watermark: int


class SagaStatus(msgspec.Struct):
    """How many sagas of one name, version and status there are. code: whether the service has their code."""

    saga: str
    version: int
    status: str
    count: int
    code: bool


class LeaseStatus(msgspec.Struct):
    name: str
    worker: str
    expires_in_s: float


class BusyStatus(msgspec.Struct):
    """what: the handler and its message."""

    worker: str
    running_s: float
    what: str


class TablesStatus(msgspec.Struct):
    """Of Ensue's own. readable_by: the schema that a process must have at least to work with them."""

    schema: int
    readable_by: int


class ServiceStatus(msgspec.Struct):
    """broker_error: why the log could not be asked; empty when it was. counters, dead_letters: sums over partitions.

    unanswered: what the database did not tell, and why; its numbers are left out (0, or nothing).
    relay: why nothing is sent, or not everything; empty when it is.
    gone: workers, and holders of leases, whose process on this machine no longer runs; others take over from them.
    busy: workers whose transaction of handlers has been running for longer than a heartbeat's lease. suspects:
    partitions whose last worker died, until another one has come past what it was at. paused: partitions that nobody
    works on, because a person said so.
    sagas: that have not ended.
    stranger: the last worker within an hour that was not let in, since its log was another one than the others'.
    warnings: what holds things back in the database, in words.
    """

    service: str
    source: str
    epoch: str
    database: str
    tables: TablesStatus
    broker: str
    broker_error: str
    unanswered: dict[str, str]
    relay: list[str]
    outbox: OutboxStatus
    workers: list[str]
    gone: list[str]
    leases: list[LeaseStatus]
    busy: list[BusyStatus]
    suspects: list[str]
    paused: list[str]
    stranger: Stranger | None
    partitions: list[PartitionStatus]
    lag: int | None
    dead_letters: dict[str, int]
    sagas: list[SagaStatus]
    counters: Counters
    warnings: list[str]


async def service_status(access: Opened, answer_s: float = ANSWER_S) -> ServiceStatus:
    """Gather everything about one service. What does not answer within answer_s is named, and its numbers left out."""
    store, books = access.store, access.books
    ask, ask_log = Asked(answer_s), Asked(answer_s)
    warnings = asyncio.create_task(ask("warnings", store.warnings(), ()))
    table, numbers, checkpoints, heads, sent, letters = await asyncio.gather(
        ask("workers and leases", books.leases(), LeaseTable((), ())),
        ask("tables", books.numbers(), Numbers()),
        ask("partitions", books.checkpoints(), {}),
        ask("outbox", store.outbox_heads(), {}),
        ask("relay", books.relay_position(), 0),
        ask("dead letters", books.letter_counts(), {}),
    )
    held = await ask("held partitions", books.held(), [])
    able = store.capabilities.transactions and store.capabilities.publishes
    sagas = await ask("sagas", books.saga_groups(), {}) if able else {}
    head = max(heads.values(), default=0)
    topics = {*access.service.subscribed_topics, *(each.topic for each in checkpoints)}
    ends = await ask_log("log", _ends(access, topics), {})
    counts = Counter(topic for topic, _ in ends)
    for topic in access.service.subscribed_topics:
        for number in range(counts[topic] or access.settings.partitions):
            checkpoints.setdefault(Partition(access.service.name, topic, number), Checkpoint())
    lags = await ask_log("log", _lags(access, checkpoints, ends), {})
    doubts = await ask_log("log", _doubts(access, checkpoints, ends), {})
    error = masked(access.broker_error) or ask_log.unanswered.get("log", "")
    partitions = [
        PartitionStatus(
            topic=partition.topic,
            partition=partition.number,
            offset=checkpoint.offset,
            log_end=ends.get((partition.topic, partition.number)),
            lag=lags.get(partition),
            worker=_holder(table, f"{partition.topic}/{partition.number}"),
            watermarks=dict(sorted(checkpoint.watermarks.items())),
            gaps=[gap for _, gap in sorted(checkpoint.gaps.items())],
            doubted=doubts.get(partition, []),
            dead_letters={
                state.value: count for (where, state), count in sorted(letters.items()) if where == partition
            },
            counters=checkpoint.counters,
        )
        for partition, checkpoint in sorted(checkpoints.items())
    ]
    found = [each.lag for each in partitions]
    unknown = None in found or "partitions" in ask.unanswered
    return ServiceStatus(
        service=access.service.name,
        source=store.source,
        epoch=store.source.rpartition("/")[2],
        database=access.database_url,
        tables=TablesStatus(numbers.schema, numbers.readable_by),
        broker=access.broker_url,
        broker_error=error,
        unanswered=ask.unanswered,
        relay=relay_reasons(table, unsent=head > sent),
        outbox=OutboxStatus(head, sent, max(head - sent, 0), held),
        workers=list(table.workers),
        gone=sorted(filter(is_gone, {*table.workers, *(each.owner for each in table.leases)})),
        leases=[LeaseStatus(each.name, each.owner, round(each.expires_in_s, 3)) for each in table.leases],
        busy=[BusyStatus(each.worker, round(each.running_s, 3), each.what) for each in table.busy],
        stranger=table.stranger,
        suspects=[each for each in table.suspects if each != RELAY],
        paused=list(table.paused),
        partitions=partitions,
        lag=None if unknown else sum(each for each in found if each is not None),
        sagas=[
            SagaStatus(name, version, state.value, count, (name, version) in access.service.sagas)
            for (name, version, state), count in sorted(sagas.items())
        ],
        dead_letters=_summed([each.dead_letters for each in partitions]),
        counters=Counters(**_summed([msgspec.structs.asdict(each.counters) for each in partitions])),
        warnings=list(await warnings),
    )


def relay_reasons(table: LeaseTable, *, unsent: bool) -> list[str]:
    """Why nothing is sent, or not everything, as the workers tell it; and that none of them is to send."""
    told = [f"{name}: {reason}" for name, each in sorted(table.told.items()) for reason in each.relay]
    if unsent and _holder(table, RELAY) is None:
        none = "no worker lives" if not table.workers else "no worker has taken the relay's lease"
        told.append(f"{none}, so nothing is sent")
    return told


async def _ends(access: Opened, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """The end of each partition of these topics; empty without a log to ask."""
    broker = access.broker
    if broker is None:
        return {}
    there = await broker.topics()
    places = [(topic, number) for topic in topics for number in range(there.get(topic, 0))]
    bounds = await asyncio.gather(*(broker.bounds(*place) for place in places))
    return {place: each.last for place, each in zip(places, bounds, strict=True)}


async def _lags(
    access: Opened, checkpoints: Mapping[Partition, Checkpoint], ends: Mapping[tuple[str, int], int]
) -> dict[Partition, int]:
    broker = access.broker
    if broker is None:
        return {}
    known = {each: at for each, at in checkpoints.items() if (each.topic, each.number) in ends}
    lags = await asyncio.gather(*(_lag(broker, access, each, at) for each, at in known.items()))
    return dict(zip(known, lags, strict=True))


async def _lag(broker: Broker, access: Opened, partition: Partition, checkpoint: Checkpoint) -> int:
    """Records after the checkpoint. Near the end only those that will have an effect: the stored offset stays behind
    ticks, duplicates and types nobody handles, and a quiet service would seem to lag for ever."""
    first, last = await broker.bounds(partition.topic, partition.number)
    offset = max(checkpoint.offset, first - 1)
    if last - offset > _LOOK_MAX:
        return last - offset
    records = each_between(broker, partition.topic, partition.number, offset, last)
    return sum([_matters(record, checkpoint, access) async for record in records])


async def doubted(access: Opened) -> list[Doubted]:
    """Sources whose last word in the log lies below what was applied of them, by partition. The log is asked, if it is
    opened."""
    checkpoints = await access.books.checkpoints()
    ends = await _ends(access, {each.topic for each in checkpoints})
    found = await _doubts(access, checkpoints, ends)
    return [
        Doubted(where.topic, where.number, source, checkpoints[where].watermarks[source])
        for where, sources in sorted(found.items())
        for source in sources
    ]


async def _doubts(
    access: Opened, checkpoints: Mapping[Partition, Checkpoint], ends: Mapping[tuple[str, int], int]
) -> dict[Partition, list[str]]:
    broker = access.broker
    if broker is None:
        return {}
    known = {each: at for each, at in checkpoints.items() if (each.topic, each.number) in ends}
    doubted = await asyncio.gather(*(_doubted(broker, each, at) for each, at in known.items()))
    return dict(zip(known, doubted, strict=True))


async def _doubted(broker: Broker, partition: Partition, checkpoint: Checkpoint) -> list[str]:
    first, last = await broker.bounds(partition.topic, partition.number)
    words: dict[str, int] = {}
    begin = max(first - 1, last - _LOOK_MAX)
    async for record in each_between(broker, partition.topic, partition.number, begin, last):
        if isinstance(record, Message) and record.position and record.type != LOST:
            words[record.source] = record.position
    return sorted(source for source, at in words.items() if at < checkpoint.watermarks.get(source, 0))


def _matters(record: Message | Garbage, checkpoint: Checkpoint, access: Opened) -> bool:
    if isinstance(record, Garbage):
        return True
    if record.type in (TICK, LOST) or record.type not in access.service.handlers:
        return False
    return not record.position or record.position > checkpoint.watermarks.get(record.source, 0)


def _holder(table: LeaseTable, name: str) -> str | None:
    return next((lease.owner for lease in table.leases if lease.name == name), None)


def _summed(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    names = sorted({name for each in counts for name in each})
    return {name: sum(each.get(name, 0) for each in counts) for name in names}
