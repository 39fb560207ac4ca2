"""The step: one local transaction that updates entities and publishes events. One `Step` everywhere.

A handler gets it, an HTTP route gets it, a test gets it. It publishes into a list; the engine writes that list into
the outbox inside the same transaction. A handler never commits.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ensue.aggregate.aggregate import Aggregate
from ensue.aggregate.kind import kind_of
from ensue.aggregate.streams import check_version
from ensue.carried import checked_extensions, checked_key, too_large
from ensue.chain import partition_of
from ensue.codec import ENVELOPE_BYTES_MAX, EXTENSIONS_MAX, encode_envelope, sent_bytes
from ensue.command import Command
from ensue.due import due_at
from ensue.errors import UsageError
from ensue.message import JSON, REPLY_KEY, REPLY_TO, SAGA, TOLD, TRACESTATE, Envelope, Message, OutboxRecord, Timer
from ensue.outgoing import Outgoing as Outgoing  # others import it from here
from ensue.reply import replies_of
from ensue.tracing import Carrier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sqlalchemy.ext.asyncio import AsyncSession

    from ensue.ports import StepTransaction
    from ensue.token import Token


R = TypeVar("R")
A = TypeVar("A", bound=Aggregate)


class SessionAsked(Exception):
    """An async entity step asked for the session in the middle of a batch whose entities are changed in memory only, so
    that it would not find what the messages before it have done. They are done anew, this one by itself."""


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
        own = checked_extensions(spec.type, key, extensions) if extensions else None
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
        self.wake(*self.outgoing.saga(saga).starts(request, id))

    def tell(self, saga: Callable[..., Awaitable[Any]], id: object, event: object) -> None:
        """Tell a saga of this service of an event, which it keeps until it receives it: `saga.receive(Paid)`.

        One that has not begun yet is told when it has, within some minutes; one that has ended is not told.
        """
        key, data = self.outgoing.saga(saga).tells(event, id)
        self.wake(key, data, TOLD)

    def cancel_saga(self, saga: Callable[..., Awaitable[Any]], id: object, *, who: str = "", why: str = "") -> None:
        """Have a saga of this service undo what it has done. One that is past its pivot, or has ended, goes on.

        who, why: are kept with the saga.
        """
        self.wake(*self.outgoing.saga(saga).ordered("cancel", id, who, why))

    def retry_saga(self, saga: Callable[..., Awaitable[Any]], id: object, *, who: str = "", why: str = "") -> None:
        """Have a parked saga of this service go on from where it was parked, with the code that there is now.

        who, why: are kept with the saga.
        """
        self.wake(*self.outgoing.saga(saga).ordered("retry", id, who, why))

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
        own = (checked_extensions(spec.type, key, extensions) if extensions else None) or {}
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
            raise too_large(kind, key, "the attributes", ENVELOPE_BYTES_MAX, len(envelope), "carry less in them")
        size = len(envelope) + key_bytes + len(data)
        if size > outgoing.record_bytes_max:
            raise too_large(
                kind, key, "the event with its key and attributes", outgoing.record_bytes_max, size,
                "publish a reference instead of the data, or raise the broker's limit and then record_bytes_max",
            )  # fmt: skip
        told = outgoing.limits.get(topic)
        if told is not None and (sent := sent_bytes(envelope, key, data)) > told:
            raise too_large(
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
        self.outgoing.check_timers("cancel")
        self.outgoing.records.append(Timer("", 0, "", b"", b"", id=message_id, cancelled=True))

    def _due(self, after: datetime.timedelta | None, at: datetime.datetime | None) -> datetime.datetime:
        self.outgoing.check_timers("publish(..., after= or at=)")
        return due_at(self.now, after, at)
