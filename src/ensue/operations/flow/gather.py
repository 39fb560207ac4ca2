"""What the databases of some services, and the log, still have of one flow. Takes and changes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing

import msgspec

from ensue.addresses import masked, shown
from ensue.app import Service
from ensue.codec import decode_envelope
from ensue.engine.letter import as_message
from ensue.engine.lookup import each_between
from ensue.engine.portion import Portion
from ensue.engine.timers import place_of, timer_of
from ensue.errors import BadMessage, EnsueError
from ensue.event import event_type
from ensue.message import WITHDRAWN, Checkpoint, DeadLetterState, Message, OutboxRecord
from ensue.operations.asked import Asked
from ensue.operations.flow.facts import Handled, Place, SetAside, Sighting, Subscriber, sender_of
from ensue.operations.flow.sagas import SagaSeen, saga_keys, saga_seen
from ensue.operations.opening import Opened, opened
from ensue.operations.outbox import Sent
from ensue.ports import Broker
from ensue.tables import TIMERS

#: How long a database or a log may take to open, and how long one part of the answer may take. Seconds.
OPEN_S, PART_S = 5.0, 120.0
#: Rows of timers, and records of outboxes, in one read.
_AT_ONCE = 200
[_BY_TIME] = TIMERS.lookups
#: A record of what was refused has no headers.
_WITH_HEADERS = tuple(state for state in DeadLetterState if state is not DeadLetterState.REFUSED)


@dataclasses.dataclass
class Found:
    """sightings, sagas, subscribers: of the flow. looked_at: in words. unseen: what was not looked at, being too much.
    unanswered: what could not be looked at, and why. cut: topic and partition of events that may be in the log all the
    same where they were not found, since not all of it was looked at. flow_of: the flow of the message that has for
    its id what was given as a flow's; empty: there is none.
    """

    sightings: list[Sighting] = dataclasses.field(default_factory=list)
    sagas: list[SagaSeen] = dataclasses.field(default_factory=list)
    subscribers: list[Subscriber] = dataclasses.field(default_factory=list)
    looked_at: list[str] = dataclasses.field(default_factory=list)
    unseen: list[str] = dataclasses.field(default_factory=list)
    unanswered: dict[str, str] = dataclasses.field(default_factory=dict)
    cut: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    flow_of: str = ""


async def gather(
    services: Sequence[Service], correlation_id: str, records_max: int, bounds: Bounds | None = None
) -> Found:
    """Ask the databases first, then the log: what is on its way meanwhile is found at one of the two, and what has
    taken effect has been published.

    records_max: how many of the last records are looked at in each partition of the log, and in each outbox. bounds: of
    all of it; what is beyond is not looked at, and `unseen` says that it was cut.
    """
    search = _Search(correlation_id, records_max, bounds)
    async with AsyncExitStack() as stack:
        accesses: list[Opened] = []
        for service in services:
            try:
                accesses.append(
                    await stack.enter_async_context(
                        opened(service, broker=True, answer_s=search.ask.patience_s(OPEN_S))
                    )
                )
            except EnsueError as error:
                search.ask.unanswered[service.name] = masked(str(error))
                search.found.subscribers.append(Subscriber(service.name, _handled(service), None))
        topics = {service.settings().broker: set[str]() for service in services}
        for service in services:
            topics[service.settings().broker] |= _topics(service)
        await search.share_out(accesses, topics)
        for access in accesses:
            topics[access.settings.broker] |= await search.database(access)
        for url, wanted in topics.items():
            await search.log(url, wanted, [each for each in accesses if each.settings.broker == url])
        for access in accesses:
            await search.sagas(access)
    search.end()
    return search.found


def _handled(service: Service) -> dict[str, Handled]:
    found = {}
    for kind, handlers in service.handlers.items():
        topic = handlers[0].event.topic
        found[kind] = Handled(topic, service.wanted(topic)[kind], tuple(each.name for each in handlers))
    return found


def _topics(service: Service) -> set[str]:
    """Those that it declares."""
    published = {event_type(each).topic for each in service.publishes or ()}
    return published | {*service.subscribed_topics}


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """What one search may cost, for whoever asks over HTTP. records: that it looks at in all: of logs, outboxes, timers
    and dead letters. events: of the flow, that it keeps. within_s: how long it may take."""

    records: int
    events: int
    within_s: float


class _Search:
    """One flow, looked for in one place after the other."""

    def __init__(self, correlation_id: str, records_max: int, bounds: Bounds | None) -> None:
        self.found = Found()
        # A part that hangs leaves time for the others.
        part_s = PART_S if bounds is None else min(PART_S, bounds.within_s / 3)
        self.ask = Asked(part_s, None if bounds is None else bounds.within_s)
        self._wanted = correlation_id
        self._records_max = records_max
        self._bounds = bounds
        self._looked = self._kept = 0
        #: By topic and partition, whether all that the log has of it was looked at, and kept.
        self._whole: dict[tuple[str, int], bool] = {}
        self._absent: set[str] = set()  # topics that are in no log

    async def share_out(self, accesses: Sequence[Opened], topics: Mapping[str, set[str]]) -> None:
        """Where there are bounds, give each place its share of the records that may be looked at in all: its last ones
        are, however long the others are."""
        if self._bounds is None:
            return
        places = 3 * len(accesses)  # outbox, timers, dead letters
        for url, wanted in topics.items():
            brokers = [each.broker for each in accesses if each.settings.broker == url and each.broker is not None]
            if brokers:
                there = await self.ask(f"log {shown(url)}", brokers[0].topics(), _NONE)
                places += sum(there[topic] for topic in wanted & there.keys())
        self._records_max = min(self._records_max, max(self._bounds.records // max(places, 1), 1))

    def end(self) -> None:
        self.found.unanswered = self.ask.unanswered
        messages = [each.message for each in self.found.sightings]
        messages += [each.message for subscriber in self.found.subscribers for each in subscriber.letters]
        self.found.cut = {
            (each.topic, each.partition)
            for each in messages
            if not self._whole.get((each.topic, each.partition), each.topic in self._absent)
        }
        bounds = self._bounds
        if bounds is not None and self._looked > bounds.records:
            self.found.unseen.append(
                f"cut after {bounds.records} records in all: look at fewer of each partition, or use `ensue flow`"
            )
        if bounds is not None and self._kept > bounds.events:
            self.found.unseen.append(f"cut: it has {self._kept} events or more, and {bounds.events} are shown")

    def _may_look(self) -> bool:
        """Count one record more; whether it may be looked at."""
        self._looked += 1
        return self._bounds is None or self._looked <= self._bounds.records

    def _may_keep(self) -> bool:
        self._kept += 1
        return self._bounds is None or self._kept <= self._bounds.events

    def _take(self, sender: str, message: Message, place: Place, due_at: float = 0.0, reason: str = "") -> bool:
        """Keep it if it is of the flow, without its data. Returns False for one that is, and is too many."""
        if message.type == WITHDRAWN:
            return True  # its outbox tells of the event
        if message.correlation_id != self._wanted:
            if message.id == self._wanted:
                self.found.flow_of = message.correlation_id
            return True
        if not self._may_keep():
            return False
        message = msgspec.structs.replace(message, data=b"")
        self.found.sightings.append(Sighting(sender, message, place, due_at, reason))
        return True

    async def database(self, access: Opened) -> set[str]:
        """Look into a service's database; return topics in which the service has published or read something."""
        name, books = access.service.name, access.books
        checkpoints = await self.ask(f"checkpoints of {name}", books.checkpoints(), None)
        places: dict[tuple[str, int], Checkpoint] | None = None
        if checkpoints is not None:
            places = {(each.topic, each.number): checkpoint for each, checkpoint in checkpoints.items()}
        letters: list[SetAside] = []
        known = await self.ask(f"dead letters of {name}", self._letters(access, letters), False)
        self.found.subscribers.append(Subscriber(name, _handled(access.service), places, letters, known))
        await self.ask(f"timers of {name}", self._timers(access), None)
        published: set[str] = set()
        await self.ask(f"outbox of {name}", self._outbox(access, published), None)
        self.found.looked_at.append(f"outbox, timers and dead letters of {name}")
        return published | {topic for topic, _ in places or ()}

    async def _letters(self, access: Opened, letters: list[SetAside]) -> bool:
        """All but of those that were discarded, which may be any number. Returns whether that is so: where there are
        bounds, only so many are looked at."""
        name, left, looked = access.service.name, self._records_max, 0
        async with aclosing(access.books.letters_by_time(_WITH_HEADERS)) as found:
            async for letter in found:
                looked += 1
                if not self._may_look() or (self._bounds is not None and looked > self._records_max):
                    self.found.unseen.append(f"dead letters of {name} behind the first {looked - 1}")
                    return False
                if letter.state is DeadLetterState.DISCARDED:
                    left -= 1
                    if left < 0:
                        continue
                if not letter.source:
                    continue  # no message
                try:
                    message = msgspec.structs.replace(as_message(letter), data=b"")
                except BadMessage as error:
                    self.ask.unanswered[f"dead letter {letter.id} of {name}"] = str(error)
                    continue
                if message.correlation_id == self._wanted and self._may_keep():
                    letters.append(SetAside(message, letter))
        if left < 0:
            self.found.unseen.append(f"{-left} discarded letters of {name}, the last ones")
        return True

    async def _timers(self, access: Opened) -> None:
        """The first that are due."""
        reader, name, source = access.store.rows(), access.service.name, access.store.source
        seen = 0
        after: Sequence[object] = ()
        while rows := await reader.find(TIMERS, _BY_TIME, (), after=after, limit=_AT_ONCE):
            for row in rows:
                if not self._may_look():
                    return
                timer = timer_of(row)
                self._take(name, _message_of(timer, source), Place.TIMER, timer.due_at)
            seen += len(rows)
            after = place_of(rows[-1])
            if seen >= self._records_max:
                there = await reader.count(TIMERS, _BY_TIME, ())
                if there > seen:
                    self.found.unseen.append(f"{there - seen} of {there} timers of {name}, the last that are due")
                    return

    async def _outbox(self, access: Opened, topics: set[str]) -> None:
        """The last records. What is known to be sent is asked first: what the relay sends meanwhile is in the log."""
        store, name = access.store, access.service.name
        if not store.capabilities.publishes:
            return
        sent = await Sent.of(access.books)
        heads = await store.outbox_heads()
        topics |= {topic for topic, _ in heads}
        position = max(max(heads.values(), default=0) - self._records_max, 0)
        if position and (first := await store.outbox_after(0, 1)) and first[0].position <= position:
            unsent = f"; those after {sent.through} are not sent" if sent.through < position else ""
            self.found.unseen.append(f"outbox of {name}, positions {first[0].position} to {position}{unsent}")
        portion = Portion(_AT_ONCE)
        while records := await store.outbox_after(position, portion.limit):
            portion.took(records)
            messages = [_message_of(each, store.source) for each in records]
            of_flow = [each.id for each in messages if each.correlation_id == self._wanted]
            withdrawn = await access.books.withdrawn(of_flow)
            for record, message in zip(records, messages, strict=True):
                if not self._may_look():
                    return
                place, held = Place.UNSENT, sent.holds(record)
                if message.id in withdrawn:
                    place, held = Place.WITHDRAWN, None
                elif sent.has(record):
                    place = Place.SENT
                elif held is not None:
                    place = Place.HELD
                reason = "" if held is None else f"position {held.position}: {held.reason}"
                self._take(name, message, place, 0.0, reason)
            position = records[-1].position

    async def sagas(self, access: Opened) -> None:
        """Look for the sagas to which what was found was written."""
        name = access.service.name
        messages = [each.message for each in self.found.sightings]
        messages += [each.message for subscriber in self.found.subscribers for each in subscriber.letters]
        for key in saga_keys(name, messages):
            saga = await self.ask(f"saga {key} of {name}", access.books.saga(key), None)
            if saga is not None:
                self.found.sagas.append(saga_seen(name, saga))

    async def log(self, url: str, topics: set[str], accesses: Sequence[Opened]) -> None:
        """Look into the topics of one log, by the connection of whichever service has one."""
        place = shown(url)
        brokers = [each.broker for each in accesses if each.broker is not None]
        if not brokers:
            reasons = [each.broker_error for each in accesses] or ["no service that uses it could be opened"]
            self.ask.unanswered[f"log {place}"] = masked(reasons[0])
            return
        there = await self.ask(f"log {place}", brokers[0].topics(), _NONE)
        if there is not _NONE:
            self._absent |= topics - there.keys()
        for topic in sorted(topics & there.keys()):
            older = await asyncio.gather(
                *(
                    self.ask(f"log {place}, {topic}/{number}", self._partition(brokers[0], topic, number), 0)
                    for number in range(there[topic])
                )
            )
            if any(older):
                self.found.unseen.append(f"topic {topic}: {sum(older)} older records in {len(older)} partitions")
            self.found.looked_at.append(f"topic {topic}")

    async def _partition(self, broker: Broker, topic: str, number: int) -> int:
        """Look at the last records of one partition; return about how many there are before them."""
        self._whole[topic, number] = False  # should it end in the middle
        first, last = await broker.bounds(topic, number)
        begin = max(first - 1, last - self._records_max)
        whole = begin == first - 1
        async with aclosing(each_between(broker, topic, number, begin, last)) as records:
            async for record in records:
                if not self._may_look():
                    whole = False
                    break
                if isinstance(record, Message):
                    whole = self._take(sender_of(record), record, Place.LOG) and whole
        self._whole[topic, number] = whole
        return begin - (first - 1)


_NONE: Mapping[str, int] = {}


def _message_of(record: OutboxRecord, source: str) -> Message:
    """As subscribers will see it; its offset is not known."""
    return Message(
        record.topic, record.partition, 0, record.key, source, record.position, record.previous,
        decode_envelope(record.envelope), b"",
    )  # fmt: skip
