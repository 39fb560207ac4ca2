"""What the steps of one transaction publish, on its way into the outbox; and what their service may publish at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ensue.aggregate.aggregate import Aggregate
from ensue.aggregate.kind import kind_of
from ensue.aggregate.streams import Streams
from ensue.codec import RECORD_BYTES_MAX
from ensue.command import CommandType, command_type
from ensue.errors import UsageError
from ensue.event import EventType, event_type
from ensue.message import OutboxRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

    from ensue.ports import Ids
    from ensue.token import Token
    from ensue.tracing import Publishing


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

    def saga(self, function: Callable[..., Any]) -> Any:
        """The saga of this service that a function is declared as. Raises UsageError."""
        declared = getattr(function, "__ensue_saga__", None)
        if declared is None:
            shown = getattr(function, "__qualname__", repr(function)[:60])
            raise UsageError(f"{shown} is no saga: write @{self.service}.saga above its `async def`")
        if declared.service != self.service:
            raise UsageError(
                f"{declared.where} is of service {declared.service}, and this is a step of {self.service}: "
                f"send {declared.service} a command, whose handler does it"
            )
        if self.closed:
            raise UsageError(f"{declared.where} is woken after the step has ended, so nothing would come of it")
        return declared

    def check_timers(self, what: str) -> None:
        """Raise UsageError where nothing can be published later."""
        if self.closed:
            raise UsageError(f"{what} after its step has ended: nothing would come of it")
        if not self.timers:
            raise UsageError(
                f"{what}: the database of service {self.service} cannot keep an event together with others "
                "until it is due. SQLite, PostgreSQL and MariaDB can"
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
