"""What a running service can be measured by, now: each with its name, its unit and its meaning, in one list.

Read from store and broker when somebody asks, so that nothing is counted twice and a restart loses no count; but for
what the loops measure themselves, see `engine.metric`.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version

from ensue.codec import decode_envelope
from ensue.engine.clock import seconds_of
from ensue.engine.codeless import codeless
from ensue.engine.context import Context
from ensue.engine.loops import RELAY
from ensue.engine.metric import MEASURED, Alert, Metric
from ensue.engine.worker import Worker
from ensue.errors import EnsueError
from ensue.message import Checkpoint, Counters, DeadLetterState, Partition

OUTBOX_UNSENT = Metric(
    "ensue_outbox_unsent",
    "records",
    "Published and not known to be in the log; grows while the broker is down",
    database=True,
)
OLDEST_UNSENT_AGE = Metric(
    "ensue_outbox_oldest_unsent_age_seconds",
    "seconds",
    "How old the oldest record is that is not known to be in the log; 0: all are",
    database=True,
    alert=Alert(
        "> 60",
        "`ensue status` says what the relay waits for: the broker, a held partition, or nobody relays",
        page=True,
    ),
)
OUTBOX_HELD = Metric(
    "ensue_outbox_held",
    "partitions",
    "Wait in the outbox behind a record that the broker does not take, see the status",
    database=True,
    alert=Alert("> 0", "`ensue status` shows the record and what the broker says of it"),
)
BROKER_UP = Metric(
    "ensue_broker_up",
    "1 or 0",
    "Whether the broker answered this process just now",
    alert=Alert("== 0", "The outbox keeps what is published; see to the broker, and to the way to it", over="min"),
)
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
    alert=Alert("> 0.5", "Let more workers help, or keep records for longer, before the log drops them", page=True),
)
PAUSED = Metric(
    "ensue_partitions_paused",
    "partitions",
    "Partitions that nobody reads since somebody has paused them; no lag is told of them",
    database=True,
    alert=Alert("> 0", "`ensue partitions resume` before the log drops what waits there", lasting="1h"),
)
GAPS_OPEN = Metric(
    "ensue_gaps_open",
    "gaps",
    "Holes in a source's chain that wait for records to be sent again",
    database=True,
    alert=Alert("> 0", "`ensue gaps list` says what is missing, and who has it", lasting="15m"),
)
DOUBTED = Metric(
    "ensue_sources_doubted",
    "sources",
    "Of which more was applied in a partition than their last word says: its database went back, or that word is old",
    alert=Alert("> 0", "Was that source's database restored from a copy? `ensue status` names it", lasting="10m"),
)
DEAD_LETTERS = Metric(
    "ensue_dead_letters",
    "messages",
    "Messages set aside, by state",
    ("state",),
    database=True,
    alert=Alert("> 0", "`ensue dead-letters list` shows why; correct it, then retry or discard", of='state="dead"'),
)
OLDEST_DEAD_LETTER_AGE = Metric(
    "ensue_oldest_dead_letter_age_seconds",
    "seconds",
    "For how long the oldest message has been set aside that waits for an operator; 0: none does",
    database=True,
    alert=Alert("> 86400", "Since yesterday its key waits: `ensue dead-letters list`"),
)
SAGAS = Metric(
    "ensue_sagas",
    "sagas",
    "Sagas that have not ended; of status PARKED they wait for a person",
    ("saga", "version", "status"),
    database=True,
    alert=Alert("> 0", "`ensue sagas list` says why it is parked", of='status="PARKED"'),
)
CODELESS = Metric(
    "ensue_sagas_without_code",
    "sagas",
    "Wait for a process with the code of their version, which this one has not",
    alert=Alert("> 0", "Deploy the code of that version until its sagas have ended", over="min", lasting="30m"),
)
LEASES = Metric("ensue_leases_held", "leases", "Partitions and relay that this process works on")
APPLIED = Metric("ensue_applied", "events", "Events that took effect", counter=True, database=True)
DUPLICATES = Metric(
    "ensue_duplicates", "records", "Records skipped because they had taken effect", counter=True, database=True
)
GAPS_SEEN = Metric("ensue_gaps_seen", "gaps", "Losses of the broker that were noticed", counter=True, database=True)
DAMAGED = Metric(
    "ensue_records_damaged",
    "records",
    "Records that were not as they were written, and are sent again",
    ("topic",),
    counter=True,
    database=True,
    alert=Alert(
        "rate > 0", "Something between sender and subscriber changes bytes: disk, memory, a proxy", lasting="0m"
    ),
)
REFUSED = Metric(
    "ensue_records_refused",
    "records",
    "Records that their source did not sign",
    ("topic",),
    counter=True,
    database=True,
    alert=Alert("rate > 0", "Who writes there? `ensue dead-letters list --state refused`", lasting="0m", page=True),
)
GARBAGE = Metric(
    "ensue_records_garbage",
    "records",
    "Records that are no messages: dead letters",
    ("topic",),
    counter=True,
    database=True,
)
RETRIES = Metric(
    "ensue_retries", "attempts", "Attempts after the first of messages that failed", counter=True, database=True
)
BUSY = Metric(
    "ensue_transaction_running",
    "seconds",
    "For how long the transaction of handlers at hand has been running, the longest of its lanes; 0: there is none",
    alert=Alert("> 60", "`ensue status` names the handler; give what it waits for a limit of its own"),
)
BUILD_INFO = Metric(
    "ensue_build_info",
    "1",
    "What runs here: always 1, for its labels",
    ("version", "python", "messaging_system"),
    alert=Alert(
        f"without {OUTBOX_UNSENT.name}",
        "What is read from its database is told by the process that relays, and nobody asks that for its metrics: run "
        "the workers with `--http` and ask them, or let one web process tell it, `metrics_route(..., database=True)`; "
        "until then no alert about that database fires",
        lasting="10m",
        without=OUTBOX_UNSENT.name,
        title="EnsueDatabaseUntold",
    ),
)
METRICS = (
    OUTBOX_UNSENT,
    OLDEST_UNSENT_AGE,
    OUTBOX_HELD,
    BROKER_UP,
    LAG,
    READ_AGE,
    PAUSED,
    GAPS_OPEN,
    DOUBTED,
    DEAD_LETTERS,
    OLDEST_DEAD_LETTER_AGE,
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
    BUILD_INFO,
    *MEASURED,
)

#: label values -> value
Values = Mapping[tuple[str, ...], float]


async def measure(
    context: Context, worker: Worker | None, answer_s: float = 2.0, *, database: bool | None = None
) -> dict[Metric, Values]:
    """Return the values of METRICS, but for histograms: those are in `context.measured`.

    database: whether to tell what all processes of the service would tell alike; None: if the relay runs here, which it
    does in one of them, or nowhere. Raises StoreUnavailable; a broker that does not answer is a value.
    """
    now = await context.store.now()
    lags = await _lags(context, worker, answer_s)
    sagas = await context.books.saga_groups() if context.dispatcher.timers else {}
    found: dict[Metric, Values] = {
        BROKER_UP: {(): float(lags is not None)},
        LAG: lags or {},
        READ_AGE: {
            (each.partition.topic, str(each.partition.number)): each.behind_s / context.config.retention_s
            for each in (worker.loops.consumers if worker else ())
        },
        DOUBTED: {(): sum(len(each.doubted) for each in worker.loops.consumers) if worker else 0},
        CODELESS: {(): sum(codeless(context.dispatcher.definition, sagas).values())},
        LEASES: {(): len(worker.loops.names) if worker else 0},
        BUSY: {(): max((each.running_s for each in worker.loops.busy), default=0.0) if worker else 0.0},
        BUILD_INFO: {(_version(), platform.python_version(), context.measured.system): 1.0},
        **context.measured.counts,
    }
    if await _tells(context, worker) if database is None else database:
        found |= await _of_database(context, worker, now)
        found[SAGAS] = {(name, str(number), status.value): count for (name, number, status), count in sagas.items()}
    return found


async def _tells(context: Context, worker: Worker | None) -> bool:
    """Where nobody relays all tell it: that is when it has to be known, and a sum would be the lesser evil."""
    owners = [lease.owner for lease in (await context.books.leases()).leases if lease.name == RELAY]
    return not owners or (worker is not None and owners == [worker.name])


async def _of_database(context: Context, worker: Worker | None, now: float) -> dict[Metric, Values]:
    checkpoints = await context.books.checkpoints()
    letters: Values = {(state.value,): float(count) for state, count in (await context.books.letter_totals()).items()}
    counters = [each.counters for each in checkpoints.values()]
    by_topic = partial(_by_topic, context.dispatcher.definition.subscribed_topics, checkpoints)
    unsent, oldest_s = await _unsent(context, worker, now)
    dead = await context.books.letters(None, (DeadLetterState.DEAD,), 1)
    return {
        OUTBOX_UNSENT: {(): unsent},
        OLDEST_UNSENT_AGE: {(): oldest_s},
        OUTBOX_HELD: {(): len(await context.books.held())},
        PAUSED: {(): len((await context.books.leases()).paused)},
        GAPS_OPEN: {(): sum(len(each.gaps) for each in checkpoints.values())},
        DEAD_LETTERS: letters,
        OLDEST_DEAD_LETTER_AGE: {(): max(now - dead[0].parked_at, 0.0) if dead else 0.0},
        APPLIED: _sum(counters, "applied"),
        DUPLICATES: _sum(counters, "duplicates"),
        GAPS_SEEN: _sum(counters, "gaps_seen"),
        DAMAGED: by_topic("damaged"),
        REFUSED: by_topic("refused"),
        GARBAGE: by_topic("garbage"),
        RETRIES: _sum(counters, "retries"),
    }


@cache
def _version() -> str:
    return version("ensue")


def _sum(counters: list[Counters], name: str) -> Values:
    return {(): sum(getattr(each, name) for each in counters)}


def _by_topic(topics: Sequence[str], checkpoints: Mapping[Partition, Checkpoint], name: str) -> Values:
    """Also of a topic of which nothing was applied yet: else the first one that is counted was no growth to anybody."""
    found: dict[tuple[str, ...], float] = {(topic,): 0 for topic in topics}
    for partition, checkpoint in checkpoints.items():
        found[partition.topic,] = found.get((partition.topic,), 0) + getattr(checkpoint.counters, name)
    return found


async def _unsent(context: Context, worker: Worker | None, now: float) -> tuple[float, float]:
    """How many records, and how old the oldest is. Positions have no holes, so a difference is a count. The relay's own
    position where it runs here."""
    if not context.store.capabilities.publishes:
        return 0, 0.0
    heads = await context.store.outbox_heads()
    relay = worker.loops.relay if worker else None
    sent = max(await context.books.relay_position(), relay.position if relay else 0)
    oldest = now
    for (topic, partition), head in heads.items():
        if head > sent:
            for record in await context.store.outbox_of(topic, partition, sent, head, 1):
                oldest = min(oldest, seconds_of(decode_envelope(record.envelope).time, now))
    return max(max(heads.values(), default=0) - sent, 0), now - oldest


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
