"""Errors by who acts on them: the loop (retry), the sender (dead letter), the programmer or operator (usage).

Each message says what failed, for which id, what was expected and found, and what to do next; the values are
attributes too, so that a log or a console need not parse text.
"""

from __future__ import annotations


class EnsueError(Exception):
    """Base of every error that Ensue raises. Keyword values become attributes and `values`."""

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text)
        self.values = values
        for name, value in values.items():
            setattr(self, name, value)


class RetryableError(EnsueError):
    """The same thing may succeed later: the loop tries again."""


class BadMessage(EnsueError):
    """The sender's fault: no retry can help, so the message becomes a dead letter at once."""


class UsageError(EnsueError):
    """The programmer's or operator's fault: the text says what to write or run instead."""


class StoreUnavailable(RetryableError):
    """The service's own database did not answer or was locked for too long."""


class StoreConflict(StoreUnavailable):
    """Another transaction changed the same rows first (deadlock, serialization failure): do the step again."""


class BrokerUnavailable(RetryableError):
    """The broker did not answer; the outbox keeps what is unsent."""


class CheckpointConflict(RetryableError):
    """Another worker moved this partition's checkpoint: roll back, load it again, read on from there.

    attributes: subscription, topic, partition, expected_revision.
    """


class EntityMissing(RetryableError):
    """An entity step's entity does not exist (yet). attributes: entity, entity_id."""


class HandlerCancelled(RetryableError):
    """A handler ended with CancelledError although nobody cancelled the step: something it awaited was cancelled."""


class TopicMismatch(UsageError):
    """A topic exists with another number of partitions. attributes: topic, expected, found."""


class StoreRestored(UsageError):
    """The log holds what this store never wrote, or what the relay sent is not in it any more: it is an older copy.

    attributes: source, topic, partition.
    """


class StoreOutdated(UsageError):
    """The store's tables are missing or of another version. attributes: found, expected."""


class IdempotencyMismatch(UsageError):
    """An Idempotency-Key came back with another request. attributes: key."""


class EventRefused(UsageError):
    """An event cannot be published with this key, or this value of an extension.

    attributes: type, what ("key" or "extension <name>"), key (its beginning), expected, found.
    """


class EventTooLarge(UsageError):
    """An event is larger than may be published. attributes: type, what, key, expected and found in bytes."""


class RecordRefused(UsageError):
    """A broker will not take this record however often it is sent. attributes: position, expected, found in bytes."""
