"""Errors by who acts on them: the loop (retry), the sender (dead letter), the programmer or operator (usage).

Each message says what failed, for which id, what was expected and found, and what to do next; the values are
attributes too, so that a log or a console need not parse text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self


class EnsueError(Exception):
    """Base of every error that Ensue raises. Keyword values become attributes, as each class declares, and `values`."""

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text)
        self.values = values
        for name, value in values.items():
            setattr(self, name, value)

    def again(self) -> Self:
        """Return another one that says the same, caused by this one: an error raised twice collects both tracebacks."""
        other = type(self).__new__(type(self))
        EnsueError.__init__(other, str(self), **self.values)
        other.__cause__ = self
        return other


class RetryableError(EnsueError):
    """The same thing may succeed later: the loop tries again."""


class BadMessage(EnsueError):
    """The sender's fault: no retry can help, so the message becomes a dead letter at once."""


class UsageError(EnsueError):
    """The programmer's or operator's fault: the text says what to write or run instead."""


def not_installed(what: str, extra: str) -> UsageError:
    """What to raise where an import failed that one of Ensue's extras brings. what: that needs it."""
    return UsageError(f'{what} needs packages that are not installed: pip install "ensue[{extra}]"')


class StoreUnavailable(RetryableError):
    """The service's own database did not answer or was locked for too long."""


class StoreLost(StoreUnavailable):
    """The database gave this transaction up, perhaps for what it did: its connection ended, it had no memory for it."""


class ViewNotReady(RetryableError):
    """This version of a view is not the one to ask. active: that one, 0: none. done, total: records of the log that
    this version has read, and has to; 0 of 0: it is not built now."""

    view: str
    version: int
    active: int
    done: int
    total: int


class StoreConflict(StoreUnavailable):
    """Another transaction changed the same rows first (deadlock, serialization failure): do the step again."""


class StoreBehind(RetryableError):
    """Ensue's tables are of an older schema than this process has brought them to, say after a restore: once more."""


class RowConflict(StoreConflict):
    """A row is not as this step expects it: another one changed, removed or inserted it first. attributes: table."""


class BrokerUnavailable(RetryableError):
    """The broker did not answer; the outbox keeps what is unsent."""


class CheckpointConflict(RetryableError):
    """Another worker moved this partition's checkpoint: roll back, load it again, read on from there.

    Attributes that are not known where it is noticed keep these values.
    """

    subscription: str = ""
    topic: str = ""
    partition: int | None = None
    expected_revision: int | None = None
    id: str | None = None  # of a dead letter that another worker took


class EntityMissing(RetryableError):
    """An entity step's entity does not exist (yet). entity: the name of its class."""

    entity: str
    entity_id: object


class SagaMissing(EntityMissing):
    """A saga that is told of an event does not exist (yet). entity: its name. It is tried more often than others."""


class VersionMismatch(UsageError):
    """An aggregate is not of the version that who changes it has seen. entity: the name of its class. found: 0: it does
    not exist."""

    entity: str
    entity_id: object
    expected: object
    found: int


class AggregateExists(UsageError):
    """An aggregate is made anew that has events already. entity: the name of its class. version: how many."""

    entity: str
    entity_id: object
    version: int


class StreamBroken(EnsueError):
    """The stream of an aggregate lacks events that its head counts: the database has lost them, or somebody took them.

    entity: the name of its class. missing: their versions, the first of them.
    """

    entity: str
    entity_id: object
    missing: tuple[int, ...]


class HandlerCancelled(RetryableError):
    """A handler ended with CancelledError although nobody cancelled the step: something it awaited was cancelled."""


class HandlerTimeout(RetryableError):
    """A handler did not return within handler_limit_s, and was cancelled."""

    handler: str
    limit_s: float


class HandlerHung(EnsueError):
    """A handler does not return and cannot be stopped: its worker has given up, and its process has to end.

    where: file, line and function of each call from the user's code on; may be empty.
    """

    handler: str
    limit_s: float
    where: str


class HandlerKilled(UsageError):
    """Process after process ended while a handler had this message at hand. deaths: how many in a row."""

    handler: str
    deaths: int


class HandlerLosesStore(RetryableError):
    """The database gives up each attempt of a message, and answers others. attempts: in a row."""

    attempts: int


class TopicMismatch(UsageError):
    """A topic exists with another number of partitions."""

    topic: str
    expected: int
    found: int


class OtherLog(UsageError):
    """Living workers of this service, on the same database, work with another log than this process.

    workers: their names. log: the name of this process's.
    """

    workers: tuple[str, ...]
    log: str


class StoreRestored(UsageError):
    """The log holds what this store never wrote, or what the relay sent is not in it any more: it is an older copy."""

    source: str
    topic: str
    partition: int


class StoreOutdated(UsageError):
    """Ensue's tables are of a version or schema that this process must not work with: `found` and `expected` say it,
    as that store does."""

    found: object
    expected: object


class IdempotencyMismatch(UsageError):
    """An Idempotency-Key came back with another request."""

    key: str


class IdempotencyConflict(RetryableError):
    """Another request with this Idempotency-Key was answered while this was at work: sent again, this gets that."""

    key: str


class ReplyTimeout(EnsueError, TimeoutError):
    """No answer to a command, or no end of a saga, came in time, or before who waits has stopped. It goes on: to send
    another one would do it twice.

    id: the command's message id, or the saga's key.
    """

    id: str
    timeout_s: float


class TokenInvalid(UsageError):
    """What came as a token is none, is larger than one may be, or is not signed by whom it must be."""


class TokenEnded(UsageError):
    """A token names a history that has ended: the source's database was put back, and has begun a new epoch. What the
    token stands for is perhaps lost: look, and do not wait."""

    source: str
    successor: str


class HeldBack(EnsueError):
    """A dead letter at or below a token's position: what was written has not taken effect here, or not all of it, and
    will not until somebody decides. letter: its id. Others of its partition, before it, count as well."""

    service: str
    letter: str


class NotCaughtUp(EnsueError, TimeoutError):
    """A service has not come to a token's positions in time. It goes on by itself.

    behind: what is missing, for each place (source, topic, partition, wanted, reached, lag) as a mapping. Positions
    count all that a source publishes: at most `lag` of its events are missing here.
    """

    service: str
    timeout_s: float
    behind: tuple[Mapping[str, object], ...]


class TooManyWaiters(RetryableError):
    """So many wait already for tokens in this process. limit: how many may."""

    service: str
    limit: int


class EventRefused(UsageError):
    """An event cannot be published with this key, or this value of an extension.

    type: the event's. what: "key" or "extension <name>". key: its beginning.
    """

    type: str
    what: str
    key: str
    expected: str
    found: str


class EventMismatch(UsageError):
    """A subscriber could not read this event, or would read something else than was published.

    type: the event's. field: where, as `lines[2].price`; empty: not known. expected: what was published; found: what
    would be read. When it could not be read: found is the field's value.
    """

    type: str
    field: str
    expected: str
    found: str


class EventTooLarge(UsageError):
    """An event is larger than may be published. type, what and key as for EventRefused; expected, found: in bytes."""

    type: str
    what: str
    key: str
    expected: int
    found: int


class RecordRefused(UsageError):
    """A broker will not take a record however often it is sent, or not so many at once.

    position: the record's; None: it is one of those that were sent, or they are too much together.
    """

    position: int | None = None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what SQLAlchemy wrapped in it, and its causes; four at most."""
    for _ in range(4):
        if error is None:
            return
        yield error
        error = getattr(error, "orig", None) or error.__cause__
