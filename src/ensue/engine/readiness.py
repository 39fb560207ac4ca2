"""Is this process of a service fit to be given work, and if not, why: what a load balancer or an orchestrator asks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable

from ensue.engine.codeless import said_of
from ensue.engine.consumer import PartitionConsumer
from ensue.engine.context import Context
from ensue.engine.loop import Loop
from ensue.engine.worker import Worker
from ensue.errors import EnsueError, RetryableError, StoreConflict, StoreUnavailable, UsageError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadyLimits:
    """When a process counts as ready. None: that is not looked at.

    lag_max: records of one partition that it holds, from what it has read to the log's end.
    backlog_max: outbox records that its relay has not sent (only the process with the relay's lease is asked).
    busy_s: seconds for which one transaction of handlers may be running, or be done again because others were in
    the way. A busy process takes many, each a short one.
    broker: whether it must answer. False for a service that takes requests from outside while the broker is down: its
    steps commit, the outbox grows, and nothing is lost; what hangs on the broker is then left out of the answer.
    answer_s: how long store and broker may take, in seconds.
    details: whether the answers over HTTP say what errors say, with hosts, databases, workers, keys: for probes that
    nobody else can ask.
    """

    lag_max: int | None = 10_000
    backlog_max: int | None = 10_000
    busy_s: float | None = 60.0
    broker: bool = True
    answer_s: float = 2.0
    details: bool = False

    def __post_init__(self) -> None:
        for name in ("lag_max", "backlog_max", "busy_s"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} is {value}, expected 0 or more, or None for no limit")
        if not self.answer_s > 0:
            raise UsageError(f"answer_s is {self.answer_s}, expected more than 0 seconds")


class Detailed(str):
    """A reason that names what is nobody's business but the operator's. brief: the same, for everybody."""

    __slots__ = ("brief",)
    brief: str

    def __new__(cls, text: str, brief: str) -> Detailed:
        reason = super().__new__(cls, text)
        reason.brief = brief
        return reason


def _with(brief: str, details: str) -> Detailed:
    return Detailed(f"{brief}: {details}", brief)


def _of(what: str, error: EnsueError) -> Detailed:
    return Detailed(f"{what}: {error}", f"{what}: {type(error).__name__}; `ensue status` tells more")


async def store_reason(context: Context, answer_s: float) -> str:
    """Why the store cannot be used; empty when it answers."""
    try:
        async with asyncio.timeout(answer_s):
            await context.store.now()
    except TimeoutError:
        return f"the database did not answer within {answer_s:g} s"
    except EnsueError as error:
        return _of("the database", error)
    return ""


async def remarks(context: Context, answer_s: float) -> list[str]:
    """What is worth a look, and no reason to give a process no work: sagas that are parked, or without code here."""
    if not context.dispatcher.timers:
        return []  # nor sagas
    try:
        async with asyncio.timeout(answer_s):
            return said_of(context.dispatcher.definition, await context.books.saga_groups())
    except (TimeoutError, EnsueError) as error:
        return [f"the database did not say how its sagas stand: {type(error).__name__}"]


async def not_ready(context: Context, worker: Worker | None, *, connecting: bool, limits: ReadyLimits) -> list[str]:
    """Return the reasons, none when ready. worker None: this process does no work, it only serves steps and queries.

    connecting: the broker was not reached yet since the start.
    """
    reasons: list[str] = []
    if reason := await store_reason(context, limits.answer_s):
        return [reason]  # the rest would say it again
    if worker is not None and worker.failed is not None:
        reasons.append(_of("the worker cannot go on", worker.failed))
    if worker is not None and worker.same_log.others:
        doubt = "works on this database with another log than this process: are two environments on one database?"
        reasons.append(Detailed(f"{', '.join(worker.same_log.others)} {doubt}", f"another worker {doubt}"))
    if worker is not None and limits.busy_s is not None:
        reasons += [
            _with(f"for {each.running_s:.0f} s one transaction has been running, limit {limits.busy_s:g} s", each.what)
            for each in worker.loops.busy
            if each.running_s > limits.busy_s
        ]
    if connecting:
        return [*reasons, *(["the broker was not reached yet"] if limits.broker else [])]
    if worker is not None and not worker.is_ready:
        reasons.append("the worker has no share of the work yet")
    if worker is not None:
        reasons += _troubled(context, worker.loops.all, limits)
    try:
        async with asyncio.timeout(limits.answer_s):
            reasons += await _behind(context, worker, limits)
    except TimeoutError:
        if limits.broker:
            reasons.append(f"broker and database did not answer within {limits.answer_s:g} s")
    except StoreUnavailable as error:
        reasons.append(_of("the database", error))
    except EnsueError as error:
        if limits.broker:
            reasons.append(_of("the broker", error))
    return reasons


def _troubled(context: Context, loops: Iterable[Loop], limits: ReadyLimits) -> list[str]:
    """What keeps these loops from going on although database and broker answer: a right that was taken away, a disk
    that is full, others who are always in the way, what nobody expected."""
    now = context.clock.monotonic()
    troubled: dict[tuple[str, str], list[Loop]] = {}
    for each in loops:
        if each.failure is None or each.troubled_since is None:
            continue
        if issubclass(each.failure, StoreConflict):
            if limits.busy_s is None or now - each.troubled_since <= limits.busy_s:
                continue
            what = f"for more than {limits.busy_s:g} s other transactions have been in the way"
        elif issubclass(each.failure, StoreUnavailable):
            what = "the database takes nothing; the log tells more"
        elif issubclass(each.failure, RetryableError):
            continue  # the broker's: it is asked below
        else:
            what = f"unexpected, {each.failure.__name__}; the log tells more"
        troubled.setdefault((what, each.trouble), []).append(each)
    return [
        _with(f"{', '.join(each.name for each in several)}: {what}", trouble)
        for (what, trouble), several in troubled.items()
    ]


async def _behind(context: Context, worker: Worker | None, limits: ReadyLimits) -> list[str]:
    await context.broker.topics()
    if worker is None:
        return []
    relay = worker.loops.relay
    held = [] if relay is None else relay.held
    reasons: list[str] = [
        Detailed(str(each), "the broker does not take a partition's record; `ensue status` tells more") for each in held
    ]
    if limits.lag_max is not None:
        consumers = worker.loops.consumers
        lags = await asyncio.gather(*(_lag(context, each) for each in consumers))
        for consumer, lag in zip(consumers, lags, strict=True):
            if lag > limits.lag_max:
                where = f"{consumer.partition.topic}/{consumer.partition.number}"
                reasons.append(f"{where} lags {lag} records behind, limit {limits.lag_max}")
    half_s = context.config.retention_s / 2
    for consumer in worker.loops.consumers:
        if consumer.behind_s > half_s:
            where = f"{consumer.partition.topic}/{consumer.partition.number}"
            reasons.append(
                f"{where} reads records {consumer.behind_s / 3600:.1f} h old, more than half of the retention: they "
                "may leave the log before they are read"
            )
    if limits.backlog_max is not None and relay is not None and context.store.capabilities.publishes:
        head = max((await context.store.outbox_heads()).values(), default=0)
        if head - relay.read_through > limits.backlog_max:  # positions have no holes
            reasons.append(f"more than {limits.backlog_max} outbox records are not sent yet")
    return reasons


async def _lag(context: Context, consumer: PartitionConsumer) -> int:
    bounds = await context.broker.bounds(consumer.partition.topic, consumer.partition.number)
    return bounds.last - max(consumer.offset, bounds.first - 1)
