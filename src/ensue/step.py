"""The step: one local transaction that updates entities and publishes events. One `Step` everywhere.

A handler gets it, an HTTP route gets it, a test gets it. It publishes into a list; the engine writes that list into
the outbox inside the same transaction. A handler never commits.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ensue.aggregate.aggregate import Aggregate
from ensue.aggregate.kind import kind_of
from ensue.aggregate.streams import Streams, check_version
from ensue.chain import partition_of
from ensue.codec import (
    ATTRIBUTE_BYTES_MAX,
    ENVELOPE_BYTES_MAX,
    EXTENSION_NAME_CHARS_MAX,
    EXTENSIONS_MAX,
    KEY_BYTES_MAX,
    RECORD_BYTES_MAX,
    RESERVED,
    encode_envelope,
    sent_bytes,
)
from ensue.command import Command, CommandType, command_type
from ensue.errors import EventRefused, EventTooLarge, UsageError
from ensue.event import EventType, event_type
from ensue.message import JSON, REPLY_KEY, REPLY_TO, SAGA, TOLD, TRACESTATE, Envelope, Message, OutboxRecord, Timer
from ensue.reply import replies_of
from ensue.tracing import Carrier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

    from ensue.ports import Ids, StepTransaction
    from ensue.token import Token
    from ensue.tracing import Publishing


R = TypeVar("R")
A = TypeVar("A", bound=Aggregate)


class SessionAsked(Exception):
    """An async entity step asked for the session in the middle of a batch whose entities are changed in memory only, so
    that it would not find what the messages before it have done. They are done anew, this one by itself."""


class Outgoing:
    """What the steps of one transaction publish, in order, ready for the outbox.

    time: RFC 3339, of the transaction. partitions: of every topic. allowed: event classes that the service declares
    to publish; None: any. record_bytes_max: of each, see EngineConfig. limits: what a record of a topic may take, as
    the broker counts it, where it has said so and not all of these would do. timers: whether the store keeps what is
    published later. guarded: the session is not to be had now; asked: it was asked for all the same. results: what
    local steps of sagas returned, by message id. after: what is to be called once this transaction is committed.
    view: the step is a view's, which tells nobody anything. positions: gives a token for what was published; None: this
    is not committed, or belongs to a handler. aggregates: classes that the service declares; streams: those that the
    step at hand has. trace: is told of what is published; None: nobody traces it.
    """

    __slots__ = (
        "after", "aggregates", "allowed", "asked", "closed", "guarded", "ids", "limits", "partitions", "positions",
        "record_bytes_max", "records", "results", "service", "streams", "time", "timers", "trace", "types", "view",
    )  # fmt: skip

    def __init__(
        self,
        service: str,
        ids: Ids,
        partitions: int,
        time: str,
        types: dict[type, EventType[Any]],
        allowed: Container[type] | None = None,
        record_bytes_max: int = RECORD_BYTES_MAX,
        limits: Mapping[str, int] | None = None,
        timers: bool = True,
        view: bool = False,
        aggregates: Container[type] = (),
    ) -> None:
        self.service = service
        self.view = view
        self.ids = ids
        self.partitions = partitions
        self.time = time
        self.types = types  # a cache, shared by all transactions of a service
        self.allowed = allowed
        self.record_bytes_max = record_bytes_max
        self.limits = {} if limits is None else limits
        self.timers = timers
        self.aggregates = aggregates
        self.records: list[OutboxRecord] = []
        self.streams = Streams(self.records)
        self.results: dict[str, Any] = {}
        self.after: list[Callable[[], None]] = []
        self.closed = False
        self.guarded = False
        self.asked = False
        self.positions: Callable[[Sequence[OutboxRecord]], Awaitable[Token]] | None = None
        self.trace: Publishing | None = None

    def largest(self, topic: str) -> int:
        """How many bytes a record of it may have, key and attributes included."""
        return min(self.limits.get(topic, self.record_bytes_max), self.record_bytes_max)

    def close(self) -> list[OutboxRecord]:
        """Return what belongs into the outbox, or among the timers; nothing can be published after that."""
        self.closed = True
        return self.records

    def type_of(self, event: object) -> EventType[Any]:
        cls = type(event)
        if isinstance(event, type):
            raise UsageError(f"{event.__qualname__} is a class: publish an object of it, {event.__qualname__}(...)")
        if not hasattr(cls, "__ensue_event_type__"):
            raise UsageError(
                f"a {cls.__qualname__} is no event: publish an object of a class that is declared as one, "
                "`class X(ensue.Event, topic=..., key=...)`"
            )
        spec = event_type(cls)
        if isinstance(spec, CommandType):
            raise UsageError(
                f"{cls.__qualname__} is a command, which service {spec.service} alone handles: send it, "
                f"step.send({cls.__name__}(...))"
            )
        self._check_allowed(cls, "publishes")
        self.types[cls] = spec
        return spec

    def command_type_of(self, command: object) -> CommandType[Any]:
        spec = command_type(command)
        if self.closed:
            raise UsageError(
                f"{spec.cls.__qualname__} is sent after its step has ended, so nothing would come of it: send inside "
                "of the step, or open another one"
            )
        self._check_allowed(spec.cls, "sends")
        return spec

    def check_aggregate(self, cls: type[Aggregate]) -> None:
        """Raise UsageError when steps of this service have no such aggregates."""
        if cls not in self.aggregates:
            kind_of(cls)  # what is none at all says so
            raise UsageError(
                f"service {self.service} does not declare {cls.__qualname__}, whose streams, and the topics that carry "
                f"them, are never pruned: write Service({self.service!r}, aggregates=[{cls.__name__}])"
            )
        if not self.timers:
            raise UsageError(
                f"{cls.__qualname__}: the database of service {self.service} cannot keep a stream together with what "
                "is published. SQLite, PostgreSQL and MariaDB can"
            )

    def _check_allowed(self, cls: type, does: str) -> None:
        if self.view:
            raise UsageError(
                f"view {self.service} {does} {cls.__qualname__}: it is built again and again from the same events, and "
                "would each time. What follows from an event beside a view belongs into a handler of a Service"
            )
        if self.allowed is not None and cls not in self.allowed:
            raise UsageError(
                f"service {self.service} {does} {cls.__qualname__}, which its declaration leaves out: "
                f"add it to Service({self.service!r}, publishes=[...])"
            )


class Step:
    """One local transaction. Attributes:

    message: the message that is handled, None in a step that began outside (HTTP, CLI, test).
    correlation_id: of the whole business flow; causation_id of what is published: `message`'s id.
    idempotency_key: the same for each try of the same step (the message's; one made of the request's Idempotency-Key
    and its principal; else its own, since nobody tries it again); hand it to outside systems (mail, payment).
    now: the transaction's time by the database's clock, an aware datetime in UTC; its events bear the same.
    transaction: the port below, for repositories.
    """

    __slots__ = ("_idempotency_key", "_traceparent", "correlation_id", "message", "outgoing", "transaction")

    def __init__(
        self,
        transaction: StepTransaction,
        outgoing: Outgoing,
        message: Message | None,
        correlation_id: str,
        traceparent: str = "",
        idempotency_key: str = "",
    ) -> None:
        self.transaction = transaction
        self.outgoing = outgoing
        self.message = message
        self.correlation_id = correlation_id
        self._traceparent = traceparent
        self._idempotency_key = idempotency_key

    @property
    def now(self) -> datetime.datetime:
        return datetime.datetime.fromisoformat(self.outgoing.time)

    @property
    def session(self) -> AsyncSession:
        """The user's SQLAlchemy session in this step's transaction. Raises UsageError where the store has none."""
        if self.outgoing.guarded:
            self.outgoing.asked = True
            raise SessionAsked
        return self.transaction.session

    @property
    def idempotency_key(self) -> str:
        message = self.message
        if message is None:
            if not self._idempotency_key:
                self._idempotency_key = self.outgoing.ids.next()
            return self._idempotency_key
        return f"{self.outgoing.service}:{message.source}:{message.id}"

    def publish(
        self,
        event: object,
        extensions: Mapping[str, str] | None = None,
        *,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> str:
        """Publish an event with this step: it goes out if and only if the step commits. Returns its message id.

        extensions: further CloudEvents attributes (names of lower-case letters and digits).
        after: it goes out so long after `now`, at: or at that time, by the database's clock; at once when that is past.
        It waits in the database, which a step can have it leave again: see `cancel`.
        Raises UsageError for what is no declared event, for values that do not fit its fields, for a key of None, and
        after the step has ended; EventRefused and EventTooLarge, also UsageErrors, for what the brokers do not carry.
        """
        outgoing = self.outgoing
        due = None if after is None and at is None else self._due(after, at)
        if outgoing.closed:
            raise UsageError(
                f"{type(event).__qualname__} is published after its step has ended, so nothing would come of it: "
                "publish inside of the step, or open another one"
            )
        spec = outgoing.types.get(type(event)) or outgoing.type_of(event)
        key = spec.key_of(event)
        key_bytes = checked_key(spec.type, key)
        own = _checked(spec.type, key, extensions) if extensions else None
        return self.emit(spec.topic, spec.type, key, key_bytes, spec.write(event), own, due)

    def record(self, aggregate: Aggregate, *events: object) -> None:
        """Append events to an aggregate's stream, have them change it, and publish them: `step.record(customer,
        customer.reserve(order_id, total))`. All of it takes effect if and only if the step commits.

        aggregate: the handler's entity, one that `load` returned here, or a new one, `Customer(customer_id=...)`, whose
        first events these are. Raises UsageError as `publish`, and for a copy that this step does not have.
        """
        outgoing = self.outgoing
        outgoing.check_aggregate(type(aggregate))
        for event in events:
            opened = outgoing.streams.check(aggregate, event)
            self.publish(event)
            outgoing.streams.record(opened, event)

    @overload
    async def load(self, cls: type[A], id: object, *, expected: int | str) -> A: ...

    @overload
    async def load(self, cls: type[A], id: object, *, expected: int | str | None = None) -> A | None: ...

    async def load(self, cls: type[A], id: object, *, expected: int | str | None = None) -> A | None:
        """Lock an aggregate and return it as it is now; None: it does not exist. For handlers it comes by itself, as
        their entity; several are best loaded in one order everywhere, since each is locked.

        expected: the version that whoever asks has seen, or what a client sent as If-Match, `"7"` or `*`. Raises
        VersionMismatch when it is not that, which HTTP answers with 412.
        """
        outgoing = self.outgoing
        outgoing.check_aggregate(cls)
        if outgoing.closed:
            raise UsageError(f"{cls.__qualname__} is loaded after its step has ended: load it inside of the step")
        kind = kind_of(cls)
        own = kind.own_id(id)
        found = (await outgoing.streams.load(self.transaction, kind, [own])).get(own)
        if expected is not None:
            check_version(kind, own, 0 if found is None else found.version, expected)
        return found

    def send(
        self,
        command: Command[Any],
        extensions: Mapping[str, str] | None = None,
        *,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> str:
        """Send a command with this step: it goes out if and only if the step commits. Returns its message id.

        Nobody waits for it and it gets no reply; see `Service.call`. Everything else is as with `publish`.
        """
        return self.ask(command, extensions, after=after, at=at)

    async def token(self) -> Token:
        """A token for what this step has published, once it has committed: whoever gets it waits, elsewhere, until that
        has taken effect: `await history.caught_up(token, timeout=2)`. Empty when nothing was published.

        Where positions are given later than the commit (PostgreSQL, MariaDB, MongoDB) this asks the database, for all
        who ask at once together. Raises UsageError before the commit, in a handler, and for a step that published to
        more than 64 places.
        """
        if self.outgoing.positions is None:
            raise UsageError(
                f"a token of a step of {self.outgoing.service} that has not committed, or of a handler's: ask after "
                f"its block, `async with {self.outgoing.service}.step() as step: ...` and then `await step.token()`; "
                "with FastAPI, install(app, ..., tokens=True) sends it with the answer"
            )
        return await self.outgoing.positions(self.outgoing.records)

    def start(self, saga: Callable[[Any, R], Awaitable[Any]], request: R, *, id: object) -> None:
        """Start a saga of this service with this step: `step.start(place_order, PlaceOrder(...), id=order_id)`.

        id: names it among those of its function; as text at most 120 printable ASCII characters. One that lives, or has
        ended a while ago, is not started again. Raises UsageError for what is no saga of this service, and a request
        that is not its.
        """
        self.wake(*self._saga(saga).starts(request, id))

    def tell(self, saga: Callable[..., Awaitable[Any]], id: object, event: object) -> None:
        """Tell a saga of this service of an event, which it keeps until it receives it: `saga.receive(Paid)`.

        One that has not begun yet is told when it has, within some minutes; one that has ended is not told.
        """
        key, data = self._saga(saga).tells(event, id)
        self.wake(key, data, TOLD)

    def cancel_saga(self, saga: Callable[..., Awaitable[Any]], id: object, *, who: str = "", why: str = "") -> None:
        """Have a saga of this service undo what it has done. One that is past its pivot, or has ended, goes on.

        who, why: are kept with the saga.
        """
        self.wake(*self._saga(saga).ordered("cancel", id, who, why))

    def retry_saga(self, saga: Callable[..., Awaitable[Any]], id: object, *, who: str = "", why: str = "") -> None:
        """Have a parked saga of this service go on from where it was parked, with the code that there is now.

        who, why: are kept with the saga.
        """
        self.wake(*self._saga(saga).ordered("retry", id, who, why))

    def _saga(self, function: Callable[..., Any]) -> Any:
        declared = getattr(function, "__ensue_saga__", None)
        if declared is None:
            shown = getattr(function, "__qualname__", repr(function)[:60])
            raise UsageError(f"{shown} is no saga: write @{self.outgoing.service}.saga above its `async def`")
        if declared.service != self.outgoing.service:
            raise UsageError(
                f"{declared.where} is of service {declared.service}, and this is a step of {self.outgoing.service}: "
                f"send {declared.service} a command, whose handler does it"
            )
        if self.outgoing.closed:
            raise UsageError(f"{declared.where} is woken after the step has ended, so nothing would come of it")
        return declared

    def wake(self, key: str, data: bytes, kind: str = SAGA) -> None:
        """For the engine: write a record for the saga of this key."""
        self.emit(replies_of(self.outgoing.service), kind, key, checked_key(kind, key), data)

    def ask(
        self,
        command: Command[Any],
        extensions: Mapping[str, str] | None = None,
        *,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
        reply_to: str = "",
        reply_key: str = "",
    ) -> str:
        """For the engine: as `send`, and its answer goes to the topic `reply_to`, with the key `reply_key`, else with
        the command's id."""
        spec = self.outgoing.command_type_of(command)
        due = None if after is None and at is None else self._due(after, at)
        key = spec.key_of(command)
        key_bytes = checked_key(spec.type, key)
        own = (_checked(spec.type, key, extensions) if extensions else None) or {}
        own |= {name: value for name, value in ((REPLY_KEY, reply_key), (REPLY_TO, reply_to)) if value}
        own = dict(sorted(own.items()))
        return self.emit(spec.topic, spec.type, key, key_bytes, spec.write(command), own or None, due)

    def emit(
        self,
        topic: str,
        kind: str,
        key: str,
        key_bytes: int,
        data: bytes,
        extensions: dict[str, str] | None = None,
        due: datetime.datetime | None = None,
    ) -> str:
        """For the engine: write a record of this type into the outbox, or among the timers; return its id.
        key_bytes: see `checked_key`. Raises EventTooLarge for what the brokers do not carry."""
        outgoing = self.outgoing
        message_id = outgoing.ids.next()
        message, traceparent = self.message, self._traceparent
        if outgoing.trace is not None:
            traceparent, extensions = self._created(topic, kind, message_id, extensions)
        envelope = encode_envelope(
            Envelope(
                message_id,
                kind,
                outgoing.time if due is None else due.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                self.correlation_id,
                "" if message is None else message.envelope.id,
                traceparent,
                JSON,
                extensions,
            )
        )
        partition = partition_of(key, outgoing.partitions)
        # What the broker would refuse is refused here, where the mistake is made: once committed it would hold back
        # everything behind it.
        if len(envelope) > ENVELOPE_BYTES_MAX:
            raise _too_large(kind, key, "the attributes", ENVELOPE_BYTES_MAX, len(envelope), "carry less in them")
        size = len(envelope) + key_bytes + len(data)
        if size > outgoing.record_bytes_max:
            raise _too_large(
                kind, key, "the event with its key and attributes", outgoing.record_bytes_max, size,
                "publish a reference instead of the data, or raise the broker's limit and then record_bytes_max",
            )  # fmt: skip
        told = outgoing.limits.get(topic)
        if told is not None and (sent := sent_bytes(envelope, key, data)) > told:
            raise _too_large(
                kind, key, "the event, as the broker may count it,", told, sent,
                "publish a reference instead of the data, or raise the broker's limit for the topic",
            )  # fmt: skip
        outgoing.records.append(
            OutboxRecord(topic, partition, key, envelope, data)
            if due is None
            else Timer(topic, partition, key, envelope, data, id=message_id, due_at=due.timestamp())
        )
        return message_id

    def _created(
        self, topic: str, kind: str, message_id: str, extensions: dict[str, str] | None
    ) -> tuple[str, dict[str, str] | None]:
        """Tell whoever traces the step of what it publishes; return the traceparent and the extensions to carry."""
        trace, message = self.outgoing.trace, self.message
        assert trace is not None
        came = None if message is None else message.envelope.extensions
        parent = Carrier(self._traceparent, came.get(TRACESTATE, "") if came else "")
        traceparent, tracestate = trace.create(topic, kind, message_id, self.correlation_id, parent)
        if tracestate and (extensions is None or len(extensions) < EXTENSIONS_MAX):
            extensions = dict(sorted({**(extensions or {}), TRACESTATE: tracestate}.items()))  # as `seal` wants them
        return traceparent, extensions

    def cancel(self, message_id: str) -> None:
        """Take back what was to be published later, if and only if this step commits. For one that went out already,
        or was never to be, this does nothing: its subscribers decide by the state that they find.

        message_id: what `publish` returned. Raises UsageError where the store keeps no such events.
        """
        if self.outgoing.view:
            raise UsageError(f"view {self.outgoing.service} cancels {message_id}: it publishes nothing, now or later")
        self._keeps_timers("cancel")
        self.outgoing.records.append(Timer("", 0, "", b"", b"", id=message_id, cancelled=True))

    def _due(self, after: datetime.timedelta | None, at: datetime.datetime | None) -> datetime.datetime:
        """When an event goes out, in UTC."""
        self._keeps_timers("publish(..., after= or at=)")
        if after is not None:
            if at is not None:
                raise UsageError("publish with after= and at=: an event goes out once, so give one of them")
            if after < datetime.timedelta():
                raise UsageError(f"publish with after={after}: give a time from now on, or leave it out")
            at = self._time_after(after)
        assert at is not None
        if at.tzinfo is None:
            raise UsageError(
                f"publish with at={at.isoformat()}, which has no time zone and so may mean any of 24 hours: give "
                "datetime(..., tzinfo=UTC), or after="
            )
        return at.astimezone(datetime.UTC)

    def _time_after(self, after: datetime.timedelta) -> datetime.datetime:
        try:
            return self.now + after
        except OverflowError:
            raise UsageError(f"publish with after={after}: that is beyond the year 9999") from None

    def _keeps_timers(self, what: str) -> None:
        if self.outgoing.closed:
            raise UsageError(f"{what} after its step has ended: nothing would come of it")
        if not self.outgoing.timers:
            raise UsageError(
                f"{what}: the database of service {self.outgoing.service} cannot keep an event together with others "
                "until it is due. SQLite, PostgreSQL and MariaDB can"
            )


def checked_key(event: str, key: str) -> int:
    """Return the bytes of a key in UTF-8. Raises EventRefused for one that not every broker and database takes."""
    if len(key) <= KEY_BYTES_MAX and key.isascii() and "\0" not in key:
        return len(key)  # the usual case
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise _refused(event, key, "key", "text that UTF-8 can carry", "a lone surrogate") from None
    if size > KEY_BYTES_MAX:
        raise _refused(event, key, "key", f"at most {KEY_BYTES_MAX} bytes of UTF-8", f"{size} bytes")
    if "\0" in key:
        raise _refused(event, key, "key", "text without NUL characters", "a NUL character")
    return size


def _refused(event: str, key: str, what: str, expected: str, found: str) -> EventRefused:
    return EventRefused(
        f"{event} with key {key[:60]!a} cannot be published: its {what} is {found}, expected {expected}. Check what "
        "comes from outside before it becomes part of an event",
        type=event,
        what=what,
        key=key[:60],
        expected=expected,
        found=found,
    )


def _too_large(event: str, key: str, what: str, expected: int, found: int, todo: str) -> EventTooLarge:
    return EventTooLarge(
        f"{event} with key {key[:60]!a} cannot be published: {what} has {found} bytes, expected at most {expected}: "
        f"{todo}",
        type=event,
        what=what,
        key=key[:60],
        expected=expected,
        found=found,
    )


def _checked(event: str, key: str, extensions: Mapping[str, str]) -> dict[str, str] | None:
    if len(extensions) > EXTENSIONS_MAX:
        raise UsageError(f"{event} has {len(extensions)} extensions, expected at most {EXTENSIONS_MAX}")
    for name, value in extensions.items():
        taken = name in RESERVED or name.startswith("ensue")
        if not (name.isascii() and name.isalnum() and name == name.lower()) or taken:
            raise UsageError(
                f"extension {name!r}: CloudEvents attributes have names of lower-case letters and digits, and those "
                f"of CloudEvents and Ensue themselves are taken ({', '.join(sorted(RESERVED))}, and all in ensue...)"
            )
        if not isinstance(value, str):
            raise UsageError(f"extension {name!r} is a {type(value).__name__}, expected a str")
        if len(name) > EXTENSION_NAME_CHARS_MAX:
            raise UsageError(
                f"extension {name[:40]!r}... has a name of {len(name)} characters, "
                f"expected at most {EXTENSION_NAME_CHARS_MAX}"
            )
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise _refused(event, key, f"extension {name}", "text that UTF-8 can carry", "a lone surrogate") from None
        if size > ATTRIBUTE_BYTES_MAX:
            raise _too_large(event, key, f"extension {name}", ATTRIBUTE_BYTES_MAX, size, "carry it in the data")
        if "\0" in value:
            raise _refused(event, key, f"extension {name}", "text without NUL characters", "a NUL character")
    return {name: value for name, value in sorted(extensions.items()) if value} or None  # as `seal` wants them
