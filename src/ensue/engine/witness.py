"""What subscribers have applied, as evidence of whether a store has gone back: for when the log can tell nothing.

A subscriber says "of your source I have applied position 30, which was message m". That was so when it was said, and
stays so: within an epoch a position has one message. So however late, repeated or out of order it is read, a store that
has no such record, or another one there, is an older copy of the one that wrote it. See docs/adr/0034.

Whoever can write to the control topic can say so, and whoever can write to a topic can make a subscriber believe it. So
it counts only where a store with this one's key has made that message's id (`hallmark.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ensue.codec import decode_envelope, encode_envelope
from ensue.engine.ask import REQUEST, SEEN, ResendRequest, read_request
from ensue.engine.clock import rfc3339
from ensue.engine.context import Context
from ensue.engine.hallmark import hallmark_of, unknown_to
from ensue.engine.lookup import records_between
from ensue.engine.restored import AT_ONCE, answered, together
from ensue.errors import BrokerUnavailable, RecordRefused, StoreRestored
from ensue.message import CONTROL_TOPIC, WHO, Envelope, Garbage, Message, OutboxRecord
from ensue.ports import Broker, Store
from ensue.texts import logger

log = logger("ensue.relay")

#: A topic and the number of one of its partitions.
Place = tuple[str, int]

#: Words that are remembered as proving nothing, and that wait to be looked into.
_KNOWN_MAX = 1000
#: How far back from its end the control topic is searched for what subscribers have said, in records.
_WINDOW = 10_000


class Witness(NamedTuple):
    """Something that was applied, and what the store has instead."""

    seen: ResendRequest
    found: str

    def __str__(self) -> str:
        seen = self.seen
        message = f" (message {seen.id})" if seen.id else ""
        return (
            f"{seen.subscriber} has applied position {seen.after}{message} of {seen.source} in topic {seen.topic}, "
            f"partition {seen.partition}, but {self.found}"
        )


def disproved(seen: ResendRequest, own: OutboxRecord | None, head: int) -> str:
    """What a store has instead of what was applied of it; empty: it may well have written that.

    own: its record at that position, None when it has none (any more). head: the last position of that partition that
    it knows of.
    """
    if own is None:
        return f"the store knows of none after position {head}" if head < seen.after else ""
    own_id = decode_envelope(own.envelope).id
    if seen.id and (own.topic, own.partition, own_id) != (seen.topic, seen.partition, seen.id):
        return f"the store has message {own_id} at that position"
    return ""


async def contradiction(store: Store, seen: ResendRequest) -> Witness | None:
    """Return a witness when the store does not have what was applied of it, whoever wrote that."""
    if seen.source != store.source or not seen.after:
        return None
    records = await store.outbox_after(seen.after - 1, 1)
    own = records[0] if records and records[0].position == seen.after else None
    head = 0 if own is not None else (await store.outbox_heads()).get((seen.topic, seen.partition), 0)
    found = disproved(seen, own, head)
    # Another process may have begun an epoch, which is known only now: what was read is none of that source's.
    return Witness(seen, found) if found and seen.source == store.source else None


async def examine(store: Store, *said: ResendRequest) -> Witness | None:
    """Return a witness when the store did not write what was applied of it, and what it is a copy of did."""
    found = [each for seen in said if (each := await contradiction(store, seen)) is not None]
    unknown = await unknown_to(store, await hallmark_of(store), {each.seen.id for each in found}) if found else ()
    return next((each for each in found if each.seen.id in unknown), None)


async def find_witness(store: Store, broker: Broker) -> Witness | None:
    """Return one of those who have lately said in the control topic what the store did not write; None: nobody has."""
    if not await broker.partitions(CONTROL_TOPIC):
        return None
    first, last = await broker.bounds(CONTROL_TOPIC, 0)
    records = await records_between(broker, CONTROL_TOPIC, 0, max(first - 1, last - _WINDOW), last)
    # Not only the last word of each: whoever said it too late may have gone on with what was written anew.
    ours = (each for each in map(_said, records) if each is not None and each.source == store.source)
    said = {(each.topic, each.partition, each.after, each.id): each for each in ours}
    return await examine(store, *said.values())


async def refuse_witnessed(context: Context) -> None:
    """Raise StoreRestored when `find_witness` finds one."""
    witness = await find_witness(context.store, context.broker)
    if witness is not None:
        raise refusal(context, witness)


class Hearing:
    """What subscribers say while a relay runs, compared with its store.

    Words that contradict it and prove nothing are logged. Those whose message a store with its key has made are looked
    into together, now and then: that reads the outbox, and whoever saw such an id can say anything of it.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: set[ResendRequest] = set()
        self._open: set[ResendRequest] = set()
        self._next = float("-inf")

    async def refuse_disproved(self, seen: ResendRequest) -> None:
        """Raise StoreRestored when the store did not write what a subscriber has applied of it."""
        store = self._context.store
        if seen in self._known or len(self._open) >= _KNOWN_MAX or await contradiction(store, seen) is None:
            return
        if (await hallmark_of(store)).made(seen.id) is None:
            self._proves_nothing(seen)
        else:
            self._open.add(seen)
            await self.look()

    async def look(self, *, now: bool = False) -> None:
        """Look into what is open, if it is time, or now. Raises StoreRestored."""
        context = self._context
        if not self._open or not (now or context.clock.monotonic() >= self._next):
            return
        witness = await examine(context.store, *self._open)
        if witness is not None:
            raise refusal(context, witness)
        self._next = context.clock.monotonic() + context.config.resend_interval_s / 2
        for seen in self._open:
            self._proves_nothing(seen)
        self._open.clear()

    def _proves_nothing(self, seen: ResendRequest) -> None:
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known.add(seen)
        log.error(
            "%s says that it has applied position %d (message %s) of %s in %s/%d, which neither this database nor one "
            "that it is a copy of has written: somebody else writes as %s, or as %s. If it was applied, that "
            "subscriber skips what is sent now: ensue gaps rewind MODULE:%s tells more",
            seen.subscriber, seen.after, seen.id or "unknown", seen.source, seen.topic, seen.partition, seen.source,
            seen.subscriber, seen.subscriber,
        )  # fmt: skip


async def ask_subscribers(
    context: Context, places: Iterable[Place], listen_s: float
) -> Mapping[Place, BrokerUnavailable]:
    """Ask in these places who has applied how much, and listen for listen_s once that is asked. Return the places where
    it could not be asked, and why; nobody who was asked in the others, and is there, has applied what this store did
    not write. Raises StoreRestored; BrokerUnavailable when the control topic is not answered for."""
    broker = context.broker
    await answered(broker.ensure_topic(CONTROL_TOPIC, 1), CONTROL_TOPIC)
    hearing = Hearing(context)
    bounds = await answered(broker.bounds(CONTROL_TOPIC, 0), CONTROL_TOPIC)
    reader = broker.reader(CONTROL_TOPIC, 0, bounds.last)
    try:
        unasked = await _ask_in(context, places)
        clock = asyncio.get_running_loop().time
        until = clock() + listen_s
        end: int | None = None
        while end is None or reader.after < end:
            if end is None and clock() >= until:
                # What was said by now counts; and that there is no more, the broker has to say.
                end = (await answered(broker.bounds(CONTROL_TOPIC, 0), CONTROL_TOPIC)).last
            wait_s = min(context.config.poll_interval_s, max(until - clock(), 0.0)) if end is None else 0.0
            records = await answered(reader.read(100, wait_s), CONTROL_TOPIC, wait_s)
            for record in records:
                if (seen := _said(record)) is not None:
                    await hearing.refuse_disproved(seen)
            if end is not None and not records:
                break
            await hearing.look()
        await hearing.look(now=True)
        return unasked
    finally:
        await reader.close()


async def _ask_in(context: Context, places: Iterable[Place]) -> dict[Place, BrokerUnavailable]:
    """Put the question there; return where it could not be put."""
    broker, source = context.broker, context.store.source
    envelope = encode_envelope(Envelope(context.ids.next(), WHO, rfc3339(context.clock.now())))

    async def ask(place: Place) -> tuple[Place, BrokerUnavailable | None]:
        topic, number = place
        try:
            await answered(broker.ensure_topic(topic, context.partitions), topic)
            question = {place: [OutboxRecord(topic, number, "", envelope, b"")]}
            await answered(broker.append_many(source, question), f"{topic}/{number}")
        except BrokerUnavailable as error:
            return place, error
        except RecordRefused as error:
            return place, BrokerUnavailable(str(error))
        return place, None

    # A log with fewer partitions than the one before it is heard at those that it has.
    there = [place for place in places if place[1] < context.partitions]
    found: list[tuple[Place, BrokerUnavailable | None]] = []
    for begin in range(0, len(there), AT_ONCE):
        found += await together(ask(place) for place in there[begin : begin + AT_ONCE])
    return {place: error for place, error in found if error is not None}


def refusal(context: Context, witness: Witness) -> StoreRestored:
    service, seen = context.service, witness.seen
    return StoreRestored(
        f"{service}: {witness}: this database is an older copy of the one that wrote it. Nothing is sent, so that "
        f"nothing is taken for a duplicate. If the copy is what you want, begin a new epoch: "
        f"ensue db new-epoch MODULE:{service}",
        source=seen.source,
        topic=seen.topic,
        partition=seen.partition,
    )


def _said(record: Message | Garbage) -> ResendRequest | None:
    return read_request(record, REQUEST, SEEN) if isinstance(record, Message) else None
