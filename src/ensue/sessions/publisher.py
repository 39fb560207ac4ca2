"""One service's side: what is published is checked at once, and is given id and time where it is written."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy.exc import IntegrityError

from ensue.adapters import make_session_outbox
from ensue.addresses import scheme_of
from ensue.codec import decode_envelope, encode_envelope
from ensue.config import Settings, read_from
from ensue.definition import ServiceDefinition
from ensue.engine.books import HALLMARK, NUMBERS, numbers_of
from ensue.engine.books.answer_rows import answer_id, answer_of, answered_meanwhile, row_of_answer
from ensue.engine.clock import SystemClock, UniqueIds, rfc3339
from ensue.engine.hallmark import Hallmark, halves_without, key_of
from ensue.engine.schema import SCHEMA
from ensue.engine.timers import row_of
from ensue.event import EventType
from ensue.message import OutboxRecord, StoredResponse, Timer
from ensue.origin import Origin, current_origin
from ensue.outgoing import Outgoing
from ensue.ports import Clock, OutboxOwner, SessionOutbox
from ensue.sessions.connections import a_write
from ensue.step import Step
from ensue.tables import ANSWERS, LEASES, RELAY, TIMERS
from ensue.tracing import Carrier, Drafted, TraceMaker, Tracing, messaging_system

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

#: After so long it is looked again whether this Ensue may write to the tables, which a newer one may have made its own.
_LOOK_AGAIN_S = 5.0
#: As long as an id can be: until it is written an event has this one, so that its size is known.
_PLACEHOLDER = f"{'0' * 16}-{'0' * 12}.{'0' * 9}.{'0' * 16}"


class Draft(NamedTuple):
    """What was published and is not written yet. after: how long after the transaction it goes out; None: with it, or
    at the time that the record says. drafted: is told when it is written; None: nobody traces it."""

    record: OutboxRecord
    after: datetime.timedelta | None
    drafted: Drafted | None = None


class Publisher:
    """Of one service, for as long as the process lives, in any thread.

    definition: what it declares. settings: by which it is configured, asked for when something else may be set.
    limits: see `Outgoing`, where the service runs in this process. maker: returns `Service.tracing`, which may change.
    tables: the service's own.
    """

    def __init__(
        self,
        definition: ServiceDefinition,
        settings: Callable[[], Settings],
        limits: Callable[[], Mapping[str, int]],
        maker: Callable[[], TraceMaker | None],
        tables: MetaData | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.definition = definition
        self._settings = settings
        self._limits = limits
        self._maker = maker
        #: What a session is asked by for the connection that writes.
        self.write = a_write(tables)
        self._clock = clock or SystemClock()
        self._ids = _ProcessIds()
        self._types: dict[type, EventType[Any]] = {}
        self._configured: _Configured | None = None
        self._checked: _Checked | None = None

    def begin(self) -> Transaction:
        """For one transaction of a session."""
        configured = self._configured
        origin = read_from()
        if configured is None or configured.origin != origin:
            settings = self._settings()
            outbox = make_session_outbox(settings.database, self.definition.name)
            configured = self._configured = _Configured(origin, settings, outbox)
        maker = self._maker()
        if maker is not configured.maker:
            system = messaging_system(scheme_of(configured.settings.broker))
            tracing = None if maker is None else maker.of(self.definition.name, system)
            configured = self._configured = configured._replace(maker=maker, tracing=tracing)
        return Transaction(self, configured.outbox, configured.settings, configured.tracing)

    def outgoing(self, settings: Settings) -> Outgoing:
        definition = self.definition
        return Outgoing(
            definition.name,
            _Placeholders(),
            settings.partitions,
            rfc3339(self._clock.now()),
            self._types,
            None if definition.publishes is None else frozenset((*definition.publishes, *definition.calls)),
            settings.engine.record_bytes_max,
            self._limits(),
            view=definition.is_view,
        )

    def new_id(self) -> str:
        return self._ids.next()

    def look(self, connection: Connection, outbox: SessionOutbox) -> OutboxOwner:
        """As `SessionOutbox.look`. Raises StoreOutdated also when this process must not write to the tables any more,
        since a newer Ensue has made them its own."""
        owner = outbox.look(connection)
        checked, now = self._checked, self._clock.monotonic()
        if checked is None or checked.source != owner.source or now >= checked.until:
            numbers = outbox.load_rows(connection, LEASES, [NUMBERS])
            SCHEMA.check(self.definition.name, numbers_of(numbers[0] if numbers else None))
            self._checked = _Checked(owner.source, now + _LOOK_AGAIN_S)
        return owner

    def hallmark(self, connection: Connection, outbox: SessionOutbox, owner: OutboxOwner) -> Hallmark:
        """That of the store, which says that it has made an id."""
        # The key is read each time: this transaction, or another one of its connection, may have made it, and may yet
        # be rolled back. Ids of a key that is not kept would be no ids of this store.
        rows = list(outbox.load_rows(connection, RELAY, HALLMARK))
        if new := halves_without(rows):
            # No worker has been here yet. Of two who do this at once one is refused its row by the database.
            outbox.insert_rows(connection, RELAY, new)
        return Hallmark(owner, key_of([*rows, *new]))


class _Configured(NamedTuple):
    """origin: what the settings were read from. tracing: of `maker`; None: nobody traces."""

    origin: tuple[object, ...]
    settings: Settings
    outbox: SessionOutbox
    maker: TraceMaker | None = None
    tracing: Tracing | None = None


class _Checked(NamedTuple):
    """The schema of whose tables was found right, and how long that holds."""

    source: str
    until: float


class Transaction:
    """What is published in one transaction of a session: `draft`, then `write`."""

    def __init__(
        self, publisher: Publisher, outbox: SessionOutbox, settings: Settings, tracing: Tracing | None = None
    ) -> None:
        self.outbox = outbox
        self._tracing = tracing
        self._publisher = publisher
        self._outgoing = publisher.outgoing(settings)
        self._correlation_id = publisher.new_id()  # of what has no other

    def draft(
        self,
        event: object,
        extensions: Mapping[str, str] | None,
        after: datetime.timedelta | None,
        at: datetime.datetime | None,
    ) -> Draft:
        """Check an event as `Step.publish` does, and keep what it says now."""
        return self.said(lambda step: step.publish(event, extensions, after=after, at=at), after)

    def said(self, say: Callable[[Step], Any], after: datetime.timedelta | None = None) -> Draft:
        """As `draft`, of whatever a step writes one record for, `lambda step: step.send(command)`. after: as there."""
        origin = current_origin() or Origin()
        transaction: Any = None  # what follows publishes only
        step = Step(
            transaction, self._outgoing, None, origin.correlation_id or self._correlation_id, origin.traceparent
        )
        told = None if self._tracing is None else _Told(self._tracing, Carrier(origin.traceparent, origin.tracestate))
        self._outgoing.trace = told
        say(step)
        return Draft(self._outgoing.records.pop(), after, None if told is None else told.drafted)

    def answer(self, connection: Connection, key: str) -> StoredResponse | None:
        """The answer that was given for this Idempotency-Key. Raises what `SessionOutbox.look` does."""
        self._publisher.look(connection, self.outbox)
        rows = self.outbox.load_rows(connection, ANSWERS, [answer_id(key)])
        return answer_of(rows[0]) if rows else None

    def keep_answer(self, connection: Connection, response: StoredResponse) -> None:
        """Keep the answer to an Idempotency-Key with the connection's transaction, which must not commit when this
        raises. Raises IdempotencyConflict for a key that was answered meanwhile."""
        owner = self._publisher.look(connection, self.outbox)
        try:
            self.outbox.insert_rows(connection, ANSWERS, [row_of_answer(response, owner.now)])
        except IntegrityError as error:
            raise answered_meanwhile(response.key) from error

    def write(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """Write what was published in the connection's transaction, which must not commit when this raises."""
        outbox = self.outbox
        owner = self._publisher.look(connection, outbox)
        hallmark = self._publisher.hallmark(connection, outbox, owner)
        ready: list[str] = []
        records: list[OutboxRecord] = []
        timers: list[Timer] = []
        given: list[str] = []
        for record, after, _ in drafts:
            if not ready:
                ready = hallmark.mark(self._publisher.new_id(), owner.now)
            message_id = ready.pop()
            given.append(message_id)
            if isinstance(record, Timer):
                due_at = record.due_at if after is None else owner.now + after.total_seconds()
                envelope = _written(record.envelope, message_id, due_at)
                timers.append(msgspec.structs.replace(record, id=message_id, envelope=envelope, due_at=due_at))
            else:
                envelope = _written(record.envelope, message_id, owner.now)
                records.append(msgspec.structs.replace(record, envelope=envelope))
        if timers:
            outbox.insert_rows(connection, TIMERS, [row_of(each, number) for number, each in enumerate(timers)])
        if records:
            outbox.add(connection, records, owner.now)
        for draft, message_id in zip(drafts, given, strict=True):
            if draft.drafted is not None:
                draft.drafted.written(message_id)


class _Told:
    """What a step is told by, of one event: whoever traces the service begins with it, and knows its id later."""

    def __init__(self, tracing: Tracing, parent: Carrier) -> None:
        self.drafted: Drafted | None = None
        self._tracing = tracing
        self._parent = parent

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        self.drafted = self._tracing.draft(topic, kind, correlation_id, self._parent)
        return self._parent if self.drafted is None else self.drafted.carrier


def _written(envelope: bytes, message_id: str, time: float) -> bytes:
    return encode_envelope(msgspec.structs.replace(decode_envelope(envelope), id=message_id, time=rfc3339(time)))


class _Placeholders:
    def next(self) -> str:
        return _PLACEHOLDER


class _ProcessIds:
    """Unique ids also in a process that is forked, as web servers and task queues do: it goes on with none of its
    parent's."""

    def __init__(self) -> None:
        self._process, self._ids = os.getpid(), UniqueIds()

    def next(self) -> str:
        if self._process != os.getpid():
            self._process, self._ids = os.getpid(), UniqueIds()
        return self._ids.next()
