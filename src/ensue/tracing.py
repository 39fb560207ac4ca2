"""What the loops tell of their work to whoever draws traces of it: nobody, unless a service is given a `TraceMaker`.

A loop asks once for each step, append and batch. What it gets is None wherever nothing is to be told, so that a service
without traces pays for a look at that, and nothing for a message. See docs/adr/0051.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ensue.message import Message, OutboxRecord


class Carrier(NamedTuple):
    """The context in which a message was created, as its envelope carries it: W3C Trace Context."""

    traceparent: str = ""
    """Empty: it has none."""
    tracestate: str = ""
    """What a vendor adds to it; usually empty."""


class Publishing(Protocol):
    """What a step publishes is told here."""

    def create(self, topic: str, kind: str, message_id: str, correlation_id: str, parent: Carrier) -> Carrier:
        """A message of this type is published. Returns the context that its envelope is to carry.

        parent: that of the message, or the request, in whose step it is published. May be called in a thread.
        """


@runtime_checkable
class Stepping(Publishing, Protocol):
    """A step that began outside."""

    def here(self) -> AbstractContextManager[Any]:
        """In this block, in another thread than the step's, its span is the current one, as in its own task."""


class Processing(Publishing, AbstractContextManager[Any], Protocol):
    """The processing of messages of one partition, in a `with` block: one attempt, and what is decided when it fails.

    Left by an error it has failed with that. told: whether messages and what they publish are told; else what is
    published goes on in the context of its message, as where nobody traces.
    """

    told: bool

    def working(self) -> AbstractContextManager[Any]:
        """In this block handlers are called, in the task at hand. A second block in one processing: what was done in
        the first was rolled back, and is done again."""

    def message(self, message: Message, handlers: Sequence[str], *, local: bool) -> None:
        """Inside of `working`: the handlers of this message are called next. local: they are a saga's local step."""

    def applied(self, messages: Sequence[Message]) -> None:
        """These are what this was about in the end: all, or the first of them."""

    def failed(self, error: BaseException, *, dead_letter: str = "") -> None:
        """Nothing of it is kept. dead_letter: the id of the letter that it has become, if it is not tried again."""


class Drafted(Protocol):
    """An event that was published in a session of the user's own, and is written at its commit, or never."""

    carrier: Carrier
    """The context that its envelope is to carry."""

    def written(self, message_id: str) -> None:
        """It was written, and has this id only now."""


class Attempted(Publishing, AbstractContextManager[Any], Protocol):
    """One call of an outside function, in a `with` block. What comes of it is published later, in its context."""

    def failed(self, error: BaseException) -> None:
        """The function has failed, or did not return in time."""


class Tracing(Protocol):
    """Traces of one service."""

    def draft(self, topic: str, kind: str, correlation_id: str, parent: Carrier) -> Drafted | None:
        """An event of this type is published in a session of the user's own. None: nobody wants to know.

        parent: of the request, which counts where nobody else has begun a trace. May be called in a thread.
        """

    def outside(self, function: str, key: str, attempt: int, correlation_id: str, parent: Carrier) -> Attempted | None:
        """An outside function of a saga is about to be called. None: nobody wants to know.

        key: of the effect, the same at each attempt. parent: of what has asked for it.
        """

    def step(self, parent: Carrier) -> AbstractContextManager[Stepping | None]:
        """A step that began outside is open in this block, which may be left in another task than it was entered.

        parent: of the request, which counts where nobody else has begun a trace.
        """

    def send(
        self, batches: Mapping[tuple[str, int], Sequence[OutboxRecord]], *, again: bool = False
    ) -> AbstractContextManager[Any]:
        """These records are appended to the log in this block. again: since a subscriber has asked for them."""

    def process(self, messages: Sequence[Message], attempt: int = 1) -> Processing | None:
        """Messages of one partition are about to be processed, in order. None: nobody wants to know.

        attempt: from 1, of a message that failed before.
        """


class TraceMaker(Protocol):
    """What `Service(..., tracing=...)` takes."""

    def of(self, service: str, system: str) -> Tracing:
        """Return what traces a service. system: its broker, see `messaging_system`."""


#: A block in which nothing is traced; may be entered again and again.
_UNTRACED = nullcontext()


class NoTracing:
    """Nobody draws traces."""

    def step(self, parent: Carrier) -> AbstractContextManager[Stepping | None]:
        return _UNTRACED

    def draft(self, topic: str, kind: str, correlation_id: str, parent: Carrier) -> Drafted | None:
        return None

    def outside(self, function: str, key: str, attempt: int, correlation_id: str, parent: Carrier) -> Attempted | None:
        return None

    def send(
        self, batches: Mapping[tuple[str, int], Sequence[OutboxRecord]], *, again: bool = False
    ) -> AbstractContextManager[Any]:
        return _UNTRACED

    def process(self, messages: Sequence[Message], attempt: int = 1) -> Processing | None:
        return None


NO_TRACING = NoTracing()


def traced(trace: Processing | Attempted | None) -> AbstractContextManager[Any]:
    """The block of a processing, or of an attempt, that may be None."""
    return _UNTRACED if trace is None else trace


def working(trace: Processing | None) -> AbstractContextManager[Any]:
    """As `Processing.working`, of one that may be None."""
    return _UNTRACED if trace is None else trace.working()


#: By the scheme of the broker's URL. A log in a file or in memory is Ensue's own.
_SYSTEMS = {
    "kafkas": "kafka", "tls": "nats", "amqp": "rabbitmq", "amqps": "rabbitmq", "rediss": "redis",
    "sqlite": "ensue", "memory": "ensue", "": "ensue",
}  # fmt: skip


def messaging_system(scheme: str) -> str:
    """What OpenTelemetry's conventions call the broker of a URL with this scheme (`messaging.system`).

    >>> messaging_system("amqps"), messaging_system("kafka"), messaging_system("sqlite")
    ('rabbitmq', 'kafka', 'ensue')
    """
    return _SYSTEMS.get(scheme, scheme)


def here(trace: Publishing | None) -> AbstractContextManager[Any]:
    """As `Stepping.here`, of what may be None, or of another kind."""
    return trace.here() if isinstance(trace, Stepping) else _UNTRACED
