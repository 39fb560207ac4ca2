"""The values that travel: an envelope, an outbox record, a message read from a log, a dead letter, a checkpoint.

Everything here is a plain value without behaviour beyond small properties; `codec.py` turns them into bytes and back.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

#: Types that Ensue itself puts in a topic. They are never handed to a handler.
TICK = "ensue.tick"
LOST = "ensue.lost"
#: The topic through which a subscriber asks a source's relay to send again.
CONTROL_TOPIC = "ensue.control"


class Envelope(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The CloudEvents 1.0 attributes fixed when an event is published (source and chain are added by the relay).

    `time` is RFC 3339 in UTC. `extensions` are the user's own CloudEvents extension attributes.
    """

    id: str
    type: str
    time: str = ""
    correlation_id: str = msgspec.field(default="", name="correlationid")
    causation_id: str = msgspec.field(default="", name="causationid")
    traceparent: str = ""
    content_type: str = msgspec.field(default="application/json", name="datacontenttype")
    extensions: dict[str, str] | None = None


class OutboxRecord(msgspec.Struct, gc=False):
    """One published event as the outbox keeps it.

    `envelope` is the encoded `Envelope` (JSON), kept as bytes because neither outbox nor relay looks inside.
    `position` and `previous` are 0 until the store gives them (at once or by stamping, as the store can).
    """

    topic: str
    partition: int
    key: str
    envelope: bytes
    data: bytes
    position: int = 0
    previous: int = 0


class Message(msgspec.Struct, frozen=True, gc=False):
    """One record as read from a log.

    `position` 0 means that the sender has no chain (a foreign CloudEvent): it is deduplicated by (source, id).
    """

    topic: str
    partition: int
    offset: int
    key: str
    source: str
    position: int
    previous: int
    envelope: Envelope
    data: bytes

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def type(self) -> str:
        return self.envelope.type

    @property
    def time(self) -> str:
        return self.envelope.time

    @property
    def correlation_id(self) -> str:
        """The flow's id; a message without one starts a flow of its own."""
        return self.envelope.correlation_id or self.envelope.id

    @property
    def headers(self) -> dict[str, str]:
        """The CloudEvents 1.0 attributes by name, those that are set; the sender's own extensions among them."""
        envelope = self.envelope
        attributes = {
            "specversion": "1.0",
            "id": envelope.id,
            "source": self.source,
            "type": envelope.type,
            "time": envelope.time,
            "datacontenttype": envelope.content_type,
            "partitionkey": self.key,
            "correlationid": envelope.correlation_id,
            "causationid": envelope.causation_id,
            "traceparent": envelope.traceparent,
        }
        if self.position:
            attributes["ensuepartition"] = str(self.partition)
            attributes["ensueposition"] = str(self.position)
            attributes["ensueprevious"] = str(self.previous)
        attributes.update(envelope.extensions or {})
        return {name: value for name, value in attributes.items() if value}


class Garbage(msgspec.Struct, frozen=True, gc=False):
    """A record of the log that is no message: bytes of someone else, or a damaged header. Kept as a dead letter."""

    topic: str
    partition: int
    offset: int
    key: str
    reason: str
    data: bytes


class Partition(NamedTuple):
    """What one checkpoint belongs to: a subscription's reading of one partition of one topic."""

    subscription: str
    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.subscription}<-{self.topic}/{self.number}"


class Bounds(NamedTuple):
    """First and last offset that a log partition holds. Empty: last = first - 1. Offsets begin at 1."""

    first: int
    last: int


class GapState(enum.StrEnum):
    OPEN = "open"  # asked for again, waiting
    LOST = "lost"  # the outbox no longer has it: an operator must accept the loss


class Gap(msgspec.Struct, frozen=True):
    """A hole in a source's chain: nothing of that source in that partition is applied until it closes.

    watermark: last position applied. needed: the last position known to exist; the gap closes when it is applied.
    lost_through: with state LOST, the last position that cannot be had any more. since: seconds since the epoch.
    held_offset, held_previous: the first record held back, which the log may still have when the outbox has it no more
    (0: none is known).
    """

    source: str
    watermark: int
    needed: int
    since: float
    state: GapState = GapState.OPEN
    lost_through: int = 0
    held_offset: int = 0
    held_previous: int = 0


class Counters(msgspec.Struct):
    """What a subscription did with one partition since it began; saved with the checkpoint.

    since: when it began, seconds since the epoch (0: not known, long ago).
    """

    since: float = 0.0
    applied: int = 0
    duplicates: int = 0
    unknown: int = 0
    gaps_seen: int = 0
    gaps_healed: int = 0
    retries: int = 0
    dead: int = 0


class Checkpoint(msgspec.Struct):
    """How far a subscription has read one partition, and per source how far it has applied.

    `revision` is the one that was loaded; saving asks for exactly it and stores the next.
    `watermarks`: source -> last position applied (or set aside). A source that is missing was never seen.
    """

    offset: int = 0
    revision: int = 0
    watermarks: dict[str, int] = {}
    gaps: dict[str, Gap] = {}
    counters: Counters = msgspec.field(default_factory=Counters)


class DeadLetterState(enum.StrEnum):
    RETRYING = "retrying"  # attempts are left; the loop tries again at `due_at`
    DEAD = "dead"  # last attempt made: an operator decides
    WAITING = "waiting"  # behind another of its key
    RELEASED = "released"  # an operator asked for another try; the loop takes it next
    DISCARDED = "discarded"  # an operator gave it up; kept as a record, holds nothing back


class DeadLetter(msgspec.Struct):
    """A message set aside in the subscriber's own database, with the reason; later ones of its key wait behind it.

    `id` is given by the store and grows in the order of setting aside. Times are seconds since the epoch.
    """

    partition: Partition
    offset: int
    source: str
    position: int
    previous: int
    key: str
    envelope: bytes
    data: bytes
    state: DeadLetterState
    attempts: int = 0
    due_at: float = 0.0
    error_type: str = ""
    error: str = ""
    parked_at: float = 0.0
    id: int = 0


class Lease(msgspec.Struct, frozen=True):
    """Who may work on `name` until it expires by the database's clock. Leases spare work; nothing relies on them."""

    name: str
    owner: str
    expires_in_s: float


class LeaseTable(msgspec.Struct, frozen=True):
    """All live leases and workers of a store, right after a heartbeat."""

    workers: tuple[str, ...]
    leases: tuple[Lease, ...]


class StoredResponse(msgspec.Struct, frozen=True):
    """The HTTP answer given for an Idempotency-Key, kept in the transaction whose effect it reports."""

    key: str
    fingerprint: str
    status: int
    headers: dict[str, str]
    body: bytes
