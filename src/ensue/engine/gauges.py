"""What a running service can be measured by, now: each with its name, its unit and its meaning, in one list.

Read from store and broker when somebody asks, so that nothing is counted twice and a restart loses no count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from ensue.engine.codeless import codeless
from ensue.engine.context import Context
from ensue.engine.worker import Worker
from ensue.errors import EnsueError
from ensue.message import Checkpoint, Counters, Partition


class Metric(NamedTuple):
    """unit: of the value. labels: by what it is split. counter: it only grows (else it is a gauge)."""

    name: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    counter: bool = False


OUTBOX_UNSENT = Metric(
    "ensue_outbox_unsent", "records", "Published and not known to be in the log; grows while the broker is down"
)
OUTBOX_HELD = Metric(
    "ensue_outbox_held",
    "partitions",
    "Wait in the outbox behind a record that the broker does not take, see the status",
)
BROKER_UP = Metric("ensue_broker_up", "1 or 0", "Whether the broker answered this process just now")
LAG = Metric(
    "ensue_lag",
    "records",
    "From what this process has read of a partition that it holds to the log's end",
    ("topic", "partition"),
)
READ_AGE = Metric(
    "ensue_read_age_ratio",
    "1 is the retention",
    "How old the records are that this process reads of a partition, while there is more to read, as a share of the "
    "retention; over 0.5 the process is not ready, over 1 they leave the log unread",
    ("topic", "partition"),
)
GAPS_OPEN = Metric("ensue_gaps_open", "gaps", "Holes in a source's chain that wait for records to be sent again")
DOUBTED = Metric(
    "ensue_sources_doubted",
    "sources",
    "Of which more was applied in a partition than their last word says: its database went back, or that word is old",
)
DEAD_LETTERS = Metric("ensue_dead_letters", "messages", "Messages set aside, by state", ("state",))
SAGAS = Metric(
    "ensue_sagas",
    "sagas",
    "Sagas that have not ended; of status PARKED they wait for a person",
    ("saga", "version", "status"),
)
CODELESS = Metric(
    "ensue_sagas_without_code", "sagas", "Wait for a process with the code of their version, which this one has not"
)
LEASES = Metric("ensue_leases_held", "leases", "Partitions and relay that this process works on")
APPLIED = Metric("ensue_applied", "events", "Events that took effect", counter=True)
DUPLICATES = Metric("ensue_duplicates", "records", "Records skipped because they had taken effect", counter=True)
GAPS_SEEN = Metric("ensue_gaps_seen", "gaps", "Losses of the broker that were noticed", counter=True)
DAMAGED = Metric(
    "ensue_records_damaged",
    "records",
    "Records that were not as they were written, and are sent again",
    ("topic",),
    counter=True,
)
REFUSED = Metric("ensue_records_refused", "records", "Records that their source did not sign", ("topic",), counter=True)
GARBAGE = Metric("ensue_records_garbage", "records", "Records that are no messages: dead letters", ("topic",), True)
RETRIES = Metric("ensue_retries", "attempts", "Attempts after the first of messages that failed", counter=True)
BUSY = Metric(
    "ensue_transaction_running",
    "seconds",
    "For how long the transaction of handlers at hand has been running, the longest of its lanes; 0: there is none",
)
METRICS = (
    OUTBOX_UNSENT,
    OUTBOX_HELD,
    BROKER_UP,
    LAG,
    READ_AGE,
    GAPS_OPEN,
    DOUBTED,
    DEAD_LETTERS,
    SAGAS,
    CODELESS,
    LEASES,
    APPLIED,
    DUPLICATES,
    GAPS_SEEN,
    DAMAGED,
    REFUSED,
    GARBAGE,
    RETRIES,
    BUSY,
)

#: label values -> value
Values = Mapping[tuple[str, ...], float]


async def measure(context: Context, worker: Worker | None, answer_s: float = 2.0) -> dict[Metric, Values]:
    """Return the values of METRICS. Raises StoreUnavailable; a broker that does not answer is a value."""
    checkpoints = await context.books.checkpoints()
    letters: Values = {(state.value,): float(count) for state, count in (await context.books.letter_totals()).items()}
    counters = [each.counters for each in checkpoints.values()]
    lags = await _lags(context, worker, answer_s)
    sagas = await context.books.saga_groups() if context.dispatcher.timers else {}
    return {
        OUTBOX_UNSENT: {(): await _unsent(context, worker)},
        OUTBOX_HELD: {(): len(await context.books.held())},
        BROKER_UP: {(): float(lags is not None)},
        LAG: lags or {},
        READ_AGE: {
            (each.partition.topic, str(each.partition.number)): each.behind_s / context.config.retention_s
            for each in (worker.loops.consumers if worker else ())
        },
        GAPS_OPEN: {(): sum(len(each.gaps) for each in checkpoints.values())},
        DOUBTED: {(): sum(len(each.doubted) for each in worker.loops.consumers) if worker else 0},
        DEAD_LETTERS: letters,
        SAGAS: {(name, str(version), status.value): count for (name, version, status), count in sagas.items()},
        CODELESS: {(): sum(codeless(context.dispatcher.definition, sagas).values())},
        LEASES: {(): len(worker.loops.names) if worker else 0},
        APPLIED: _sum(counters, "applied"),
        DUPLICATES: _sum(counters, "duplicates"),
        GAPS_SEEN: _sum(counters, "gaps_seen"),
        DAMAGED: _by_topic(checkpoints, "damaged"),
        REFUSED: _by_topic(checkpoints, "refused"),
        GARBAGE: _by_topic(checkpoints, "garbage"),
        RETRIES: _sum(counters, "retries"),
        BUSY: {(): max((each.running_s for each in worker.loops.busy), default=0.0) if worker else 0.0},
    }


def _sum(counters: list[Counters], name: str) -> Values:
    return {(): sum(getattr(each, name) for each in counters)}


def _by_topic(checkpoints: Mapping[Partition, Checkpoint], name: str) -> Values:
    found: dict[tuple[str, ...], float] = {}
    for partition, checkpoint in checkpoints.items():
        found[partition.topic,] = found.get((partition.topic,), 0) + getattr(checkpoint.counters, name)
    return found


async def _unsent(context: Context, worker: Worker | None) -> float:
    """Positions have no holes, so a difference is a count. The relay's own position where it runs here."""
    if not context.store.capabilities.publishes:
        return 0
    head = max((await context.store.outbox_heads()).values(), default=0)
    relay = worker.loops.relay if worker else None
    return max(head - max(await context.books.relay_position(), relay.position if relay else 0), 0)


async def _lags(context: Context, worker: Worker | None, answer_s: float) -> Values | None:
    """None: the broker does not answer."""
    lags: dict[tuple[str, ...], float] = {}
    try:
        async with asyncio.timeout(answer_s):
            await context.broker.topics()
            for each in worker.loops.consumers if worker else ():
                first, last = await context.broker.bounds(each.partition.topic, each.partition.number)
                place = (each.partition.topic, str(each.partition.number))
                lags[place] = max(last - max(each.offset, first - 1), 0)
    except (TimeoutError, EnsueError):
        return None  # which is what `ensue_broker_up` says
    return lags
