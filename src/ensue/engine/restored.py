"""A store that was put back from an old copy would give positions out twice: notice it before anything is sent.

At its start the relay compares what it has with the tail of the log. The store's own history is a prefix of what the
log holds of this source, or the store is not the one that wrote it. Anybody may write in the name of a source, so only
a record whose id a store with this one's key has made counts (`hallmark.py`). A log that was lost can tell nothing:
what subscribers have applied can (`witness.py`).

A store can go back while the relay lives, too: an older copy is put into a file that stays open, or a server fails
over to a standby that lags behind, under the same address. So each look reads the record that was sent last once more,
in the very read of what comes after it: no row is sent that was not read together with it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from ensue.codec import decode_envelope
from ensue.engine.context import Context
from ensue.engine.hallmark import Hallmark, hallmark_of, unknown_to
from ensue.engine.lookup import each_between
from ensue.errors import BrokerUnavailable, StoreRestored
from ensue.message import LOST, TICK, Garbage, Message, OutboxRecord
from ensue.ports import Broker, Store
from ensue.texts import logger

log = logger("ensue.relay")

#: How far back from its end a partition is searched for this source's last record, in records.
_WINDOW = 1000
_WINDOWS_MAX = 10
#: Partitions whose ends are looked at at once. One takes several round trips to the broker, and the relay sends nothing
#: before all are looked at; but each may bring a window of records into memory.
AT_ONCE = 8
#: So long is each answer of the broker about a partition waited for. Brokers' own limits are shorter, as a rule.
LOOK_S = 15.0

T = TypeVar("T")


class Sent(NamedTuple):
    """How far the relay is, and the record there. id: empty when the outbox has no such record (any more)."""

    position: int = 0
    id: str = ""
    topic: str = ""
    partition: int = 0

    @classmethod
    def of(cls, record: OutboxRecord) -> Sent:
        return cls(record.position, decode_envelope(record.envelope).id, record.topic, record.partition)


@dataclasses.dataclass(slots=True)
class Looked:
    """What a look at the log could not compare.

    silent: partitions in which the log has nothing of this source, though the store has written to them.
    unknown: those that the broker does not answer for, and why.
    """

    silent: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    unknown: dict[tuple[str, int], BrokerUnavailable] = dataclasses.field(default_factory=dict)


async def following(
    context: Context, sent: Sent, records: Sequence[OutboxRecord], looked: Looked
) -> Sequence[OutboxRecord]:
    """Return what follows `sent` in `records`, which were read from its own position on.

    looked: gets what could not be compared where the log had to be asked.
    Raises StoreRestored when the store is not the one that `sent` was read from.
    """
    own = records[0] if records and records[0].position <= sent.position else None
    if own is None:
        if sent.position:
            await _refuse_shorter(context, sent)
            if records:  # it was pruned, or an epoch begins here: ask the log before they are sent
                await refuse_restored_store(context, looked)
        return records
    if sent.id and decode_envelope(own.envelope).id != sent.id:
        raise _refusal(context, sent, f"the store has message {decode_envelope(own.envelope).id} at that position now")
    return records[1:]


async def _refuse_shorter(context: Context, sent: Sent) -> None:
    heads = await context.store.outbox_heads()
    head = max(heads.values(), default=0)
    # Where an epoch begins there is no such record, and nothing yet that follows it.
    if head < sent.position and (sent.id or heads):
        raise _refusal(context, sent, f"the store knows of none after position {head} any more")


async def refuse_restored_store(context: Context, looked: Looked, only: tuple[str, int] | None = None) -> None:
    """Raise StoreRestored, with the command that helps, when the log knows more of this source than the store does.

    looked: gets what could not be compared. only: one partition.
    """
    declared = context.dispatcher.definition.publishes_to(await context.broker.topics())
    contradiction = await find_contradiction(context.store, context.broker, declared, looked, only)
    if contradiction is not None:
        raise _refusal(context, *contradiction)


async def find_contradiction(
    store: Store,
    broker: Broker,
    declared: Iterable[str],
    looked: Looked | None = None,
    only: tuple[str, int] | None = None,
) -> tuple[Message, str] | None:
    """Return a record of this source that the store did not write, and what the store has instead; None: all agrees.

    declared: topics that the service publishes to, besides those of its outbox. looked: gets what could not be
    compared. only: one partition. Raises BrokerUnavailable when the broker is away; without `looked` also when it does
    not answer for one partition.
    """

    async def end(place: tuple[str, int]) -> tuple[Message | None, Sequence[Message]]:
        try:
            return await last_of_source(broker, *place, store.source, hallmark)
        except BrokerUnavailable as error:
            if looked is None:
                raise
            looked.unknown[place] = error  # one partition must not keep all others waiting
            return None, []

    topics = await broker.topics()
    heads = await store.outbox_heads()
    published = {*declared, *(topic for topic, _ in heads)}
    places = [(topic, number) for topic in sorted(published & set(topics)) for number in range(topics[topic])]
    gone = [place for place in heads if place[1] >= topics.get(place[0], 0)]
    if only is not None:
        places, gone = ([each for each in found if each == only] for found in (places, gone))
    if looked is not None:
        looked.silent += gone
    hallmark = await hallmark_of(store)
    for begin in range(0, len(places), AT_ONCE):
        chunk = places[begin : begin + AT_ONCE]
        ends = await together(end(place) for place in chunk)
        # The store after the log: another process may publish right now, and it commits before it appends.
        heads = await store.outbox_heads()
        for place, (last, others) in zip(chunk, ends, strict=True):
            foremost = max(others, key=lambda each: each.position, default=None)
            if foremost is not None and await _contradicts(store, foremost, heads.get(place, 0)):
                log.error(
                    "%s/%d holds message %s at position %d of %s, which neither this database nor one that it is a "
                    "copy of has written: who else may write there? It is passed over",
                    *place, foremost.id, foremost.position, store.source,
                )  # fmt: skip
            if last is None:
                if looked is not None and not others and place in heads and place not in looked.unknown:
                    looked.silent.append(place)
                continue
            if found := await _contradicts(store, last, heads.get(place, 0)):
                if last.type == TICK or await unknown_to(store, hallmark, [last.id]):
                    return last, found
                # Somebody has put a record of ours where it does not belong: what is behind it has to be asked, too.
                if (copied := await _among_copies(store, broker, place, hallmark, heads.get(place, 0))) is not None:
                    return copied
    return None


async def _contradicts(store: Store, last: Message, head: int) -> str:
    """What the store has instead of a record of the log; empty: it may well have written it."""
    if last.position > head:
        return f"the store knows of none after position {head}"
    own = await record_at(store, last.position)
    if own is None or last.type == TICK:
        return ""  # pruned: nothing to compare
    own_id = decode_envelope(own.envelope).id
    return "" if own_id == last.id else f"the store has message {own_id} at that position"


async def _among_copies(
    store: Store, broker: Broker, place: tuple[str, int], hallmark: Hallmark, head: int
) -> tuple[Message, str] | None:
    """As `find_contradiction`, of one partition, where copies of the store's own records stand at wrong positions."""
    first, end = await broker.bounds(*place)
    begin = max(first - 1, end - _WINDOW * _WINDOWS_MAX)
    found: dict[str, tuple[Message, str]] = {}
    async for record in each_between(broker, *place, begin, end):
        if (
            isinstance(record, Garbage)
            or record.source != store.source
            or not (record.position and hallmark.wrote(record))
        ):
            continue
        if instead := await _contradicts(store, record, head):
            if record.type == TICK:
                return record, instead
            found[record.id] = (record, instead)
    unknown = await unknown_to(store, hallmark, found)
    return next((found[each] for each in found if each in unknown), None)


async def record_at(store: Store, position: int) -> OutboxRecord | None:
    """The record with this position; None when it was pruned, or there is none."""
    found = await store.outbox_after(position - 1, 1)
    return found[0] if found and found[0].position == position else None


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results in order. The first error ends the others."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def answered(work: Awaitable[T], what: str, wait_s: float = 0.0) -> T:
    """Return what the broker answers. Raises BrokerUnavailable, also when it does not within LOOK_S. wait_s: it may
    wait so long before it does."""
    try:
        async with asyncio.timeout(LOOK_S + wait_s):
            return await work
    except TimeoutError as error:
        raise BrokerUnavailable(f"{what}: no answer within {LOOK_S:g} s") from error


async def last_of_source(
    broker: Broker, topic: str, number: int, source: str, hallmark: Hallmark | None = None
) -> tuple[Message | None, Sequence[Message]]:
    """The record of `source` with the highest position near the end of a partition, or None; and those that others have
    written in its name, as far as was looked. hallmark: of the source's store; None: all counts as written by it.

    Behind the ticks of a long silence too: a tick names no message, so it could not tell one life from another.
    Raises BrokerUnavailable when the broker does not answer for the partition, within LOOK_S for each answer.
    """
    try:
        async with asyncio.timeout(LOOK_S) as patience:
            return await _last_of_source(broker, (topic, number), source, hallmark, patience)
    except TimeoutError as error:
        raise BrokerUnavailable(f"{topic}/{number}: no answer about its last records within {LOOK_S:g} s") from error


async def _last_of_source(
    broker: Broker, place: tuple[str, int], source: str, hallmark: Hallmark | None, patience: asyncio.Timeout
) -> tuple[Message | None, Sequence[Message]]:
    """As `last_of_source`. patience: begins anew with each answer."""
    loop = asyncio.get_running_loop()
    first, last = await broker.bounds(*place)
    end = last
    best: Message | None = None
    others: list[Message] = []
    for _ in range(_WINDOWS_MAX):
        if end < first:
            break
        start = max(end - _WINDOW, first - 1)
        patience.reschedule(loop.time() + LOOK_S)
        async for record in each_between(broker, *place, start, end):
            patience.reschedule(loop.time() + LOOK_S)
            if isinstance(record, Message) and record.source == source and record.position:
                if hallmark is not None and not hallmark.wrote(record):
                    if record.type != LOST:
                        others.append(record)
                    continue
                better = best is None or record.position > best.position
                # A record names its message, a tick only a position: prefer the record.
                if better or (best is not None and record.position == best.position and best.type == TICK):
                    best = record
        if best is not None and best.type != TICK:
            break
        end = start
    return best, others


def _refusal(context: Context, last: Message | Sent, found: str) -> StoreRestored:
    service, source = context.service, context.store.source
    known = f"position {last.position} of {source} was sent"
    if last.id:
        where = f"topic {last.topic}, partition {last.partition}"
        known = f"{where} holds position {last.position} (message {last.id}) of {source}"
    return StoreRestored(
        f"{service}: {known}, but {found}: this database is an older copy of the one that wrote it. "
        f"Nothing is sent, so that nothing is taken for a duplicate. If the copy is what you want, begin a new epoch: "
        f"ensue db new-epoch MODULE:{service}",
        source=source,
        topic=last.topic,
        partition=last.partition,
    )
