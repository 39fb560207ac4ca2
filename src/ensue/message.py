"""The values that travel: an envelope, an outbox record, a message read from a log, a dead letter, a checkpoint.

Everything here is a plain value without behaviour beyond small properties; `codec.py` turns them into bytes and back.
"""

from __future__ import annotations

import enum
import sys
from typing import NamedTuple

import msgspec

#: The media type of all that Ensue writes. Interned: what *is* a field's default is left out of its JSON, see `seal`.
JSON = sys.intern("application/json")
#: Types that Ensue itself puts in a topic. They are never handed to a user's handler.
TICK = "ensue.tick"
LOST = "ensue.lost"
#: What goes out at the place of an event that its own service has withdrawn: nothing, so that the chain goes on.
WITHDRAWN = "ensue.withdrawn"
#: A source asks its subscribers how much of it they have applied. Without a chain.
WHO = "ensue.who"
#: The answer to a command, in the topic that the command names; see `ensue.reply`.
REPLY = "ensue.reply"
#: What wakes a saga, in the topic of the answers to its service; see `ensue.saga.wake`.
SAGA = "ensue.saga"
#: What a saga is told, there too. Of a type of its own, since nothing else of the saga waits behind it; see `plan.py`.
TOLD = "ensue.saga.told"
#: A command's attributes: the topic where its answer is wanted, and the answer's key there, else the command's id.
REPLY_TO, REPLY_KEY = "ensuereplyto", "ensuereplykey"
#: The extension that goes with `traceparent`, where a vendor of tracing adds something to it.
TRACESTATE = "tracestate"
#: The topic through which a subscriber asks a source's relay to send again.
CONTROL_TOPIC = "ensue.control"


class Envelope(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The CloudEvents 1.0 attributes fixed when an event is published (source and chain are added by the relay)."""

    id: str
    """Unique within its source."""
    type: str
    """Which event it is: `<topic>.<class>.v<version>`, or what another application writes."""
    time: str = ""
    """When it was published: RFC 3339, in UTC."""
    correlation_id: str = msgspec.field(default="", name="correlationid")
    """Shared by all messages of one business flow; empty: this message begins one."""
    causation_id: str = msgspec.field(default="", name="causationid")
    """Id of the message in whose handling this one was published; empty: the step came from outside."""
    traceparent: str = ""
    """W3C trace context in which it was created."""
    content_type: str = msgspec.field(default=JSON, name="datacontenttype")
    """Media type of the data."""
    extensions: dict[str, str] | None = None
    """The user's own CloudEvents extension attributes."""
    signature: str = msgspec.field(default="", name="ensuesignature")
    """`<key id>.<HMAC>`, see `ensue.seal`; empty: its sender signs nothing."""
    crc: str = msgspec.field(default="", name="ensuecrc")
    """The checksum, eight hexadecimal digits, see `ensue.seal`; empty: a stranger's. The last, as `seal` needs it."""


class OutboxRecord(msgspec.Struct, gc=False):
    """One published event as the outbox keeps it."""

    topic: str
    partition: int
    """Of the topic, from 0; fixed by the key when the event is published."""
    key: str
    """Events of one key stay in order."""
    envelope: bytes
    """The encoded `Envelope` (JSON); neither outbox nor relay looks inside."""
    data: bytes
    """The encoded event (JSON)."""
    position: int = 0
    """Its number in the outbox of its source, from 1; 0 until the store gives it, at the step or when it is read."""
    previous: int = 0
    """Position of the record before it, of the same source in the same partition; 0: it is the first there."""


class HeldPartition(msgspec.Struct, frozen=True):
    """A partition that waits, in the outbox, behind a record which the broker does not take; or from a position on,
    without type and id: the broker did not tell what it holds when the relay began."""

    topic: str
    partition: int
    position: int
    """Of that record."""
    type: str
    """Of its event."""
    id: str
    reason: str
    refused: bool = False
    """Whether the broker has said no to that record; else it does not answer for the partition, or its topic cannot be
    made."""

    def __str__(self) -> str:
        record = f", {self.type} with id {self.id}" if self.id else ""
        return f"{self.topic}/{self.partition} is held at position {self.position}{record}: {self.reason}"


class Timer(OutboxRecord):
    """An event that is published later: it waits in the database, and becomes a record of the outbox when it is due."""

    id: str = ""
    """The event's message id."""
    due_at: float = 0.0
    """Seconds since the epoch, by the database's clock."""
    cancelled: bool = False
    """A step takes the timer of this id back, and says nothing else of it."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One record as read from a log."""

    topic: str
    partition: int
    """Of the topic, from 0."""
    offset: int
    """Its number in the log's partition, from 1; the broker's."""
    key: str
    """Events of one key stay in order."""
    source: str
    """Who sent it: `<service>/<epoch>`, or the CloudEvents source of another application."""
    position: int
    """Its number in the outbox of its source; 0: the sender has no chain, and (source, id) tells a duplicate."""
    previous: int
    """Position of the record before it, of the same source in the same partition; 0: it is the first there."""
    envelope: Envelope
    """The CloudEvents attributes."""
    data: bytes
    """The encoded event, as it was sent."""

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
        attributes["ensuesignature"] = envelope.signature
        attributes["ensuecrc"] = envelope.crc
        attributes.update(envelope.extensions or {})
        return {name: value for name, value in attributes.items() if value}


class Flaw(enum.StrEnum):
    STRANGE = "strange"  # bytes of somebody else: kept as a dead letter
    DAMAGED = "damaged"  # ours, and not whole: passed over, the chain brings it again
    REFUSED = "refused"  # not signed by its source: the last ones are kept, for a look at them


class Garbage(msgspec.Struct, frozen=True, gc=False):
    """A record of the log that is no message."""

    topic: str
    partition: int
    offset: int
    key: str
    reason: str
    """Why it is no message."""
    data: bytes
    """The record's value, as it is in the log."""
    flaw: Flaw = Flaw.STRANGE


class Partition(NamedTuple):
    """What one checkpoint belongs to: a subscription's reading of one partition of one topic."""

    subscription: str
    """Name of the service that reads."""
    topic: str
    number: int
    """Of the topic's partitions, from 0."""

    @property
    def place(self) -> str:
        """`<topic>/<number>`: its name within the subscription."""
        return f"{self.topic}/{self.number}"

    def __str__(self) -> str:
        return f"{self.subscription}<-{self.topic}/{self.number}"


class Bounds(NamedTuple):
    """First and last offset that a log partition holds. Offsets begin at 1."""

    first: int
    last: int
    """first - 1 when the partition is empty."""


class GapState(enum.StrEnum):
    OPEN = "open"  # asked for again, waiting
    LOST = "lost"  # the outbox no longer has it: an operator must accept the loss


class Gap(msgspec.Struct, frozen=True):
    """A hole in a source's chain: nothing of that source in that partition is applied until it closes."""

    source: str
    watermark: int
    """Last position applied."""
    needed: int
    """Last position known to exist; the gap closes when it is applied."""
    since: float
    """When it was noticed, seconds since the epoch."""
    state: GapState = GapState.OPEN
    lost_through: int = 0
    """With state LOST: the last position that nobody has any more."""
    held_offset: int = 0
    """Offset of the first record held back, which the log may still have when the outbox does not; 0: not known."""
    held_previous: int = 0
    """That record's `previous`."""


class Counters(msgspec.Struct, frozen=True):
    """What a subscription did with one partition since it began; saved with the checkpoint."""

    since: float = 0.0
    """When it began, seconds since the epoch; 0: not known, long ago."""
    applied: int = 0
    """Messages whose handlers have run."""
    duplicates: int = 0
    """Messages skipped because they had been applied."""
    unknown: int = 0
    """Messages of types that no handler of the service takes."""
    gaps_seen: int = 0
    gaps_healed: int = 0
    retries: int = 0
    """Further attempts of messages that had failed."""
    dead: int = 0
    """Messages whose last attempt failed."""
    damaged: int = 0
    """Records that were not as they were written: passed over, and sent again."""
    refused: int = 0
    """Records that their source did not sign."""
    garbage: int = 0
    """Records that are no messages of anybody: each is a dead letter."""

    def plus(self, **more: int) -> Counters:
        """These counters with more added to some of them."""
        return msgspec.structs.replace(self, **{name: getattr(self, name) + count for name, count in more.items()})


class Missed(msgspec.Struct, frozen=True):
    """Until where an event type was handled, which is not handled any more."""

    offset: int = 0
    """Of the log: what comes behind it was passed over."""
    watermarks: dict[str, int] = {}
    """By source: how far its chain had been followed up to there."""
    done: dict[str, int] = {}
    """By source: positions beyond those that were handled before, and are read again all the same."""


class CatchUp(msgspec.Struct, frozen=True):
    """The log is read again for types that are handled now and were passed over before: see `ensue.catch_up`."""

    types: tuple[str, ...]
    offset: int
    """How far it is read again."""
    through: int
    """Where it ends: the checkpoint's offset when it began."""
    watermarks: dict[str, int]
    """By source: how far its chain was followed this time."""
    done: dict[str, dict[str, int]]
    """By type and source: positions through which that type was handled before."""
    holes: dict[str, int]
    """By source: the position before the first record to which the chain did not lead."""


class Checkpoint(msgspec.Struct):
    """How far a subscription has read one partition, and per source how far it has applied."""

    offset: int = 0
    """Last offset of the log that is dealt with; 0: none."""
    revision: int = 0
    """As it was loaded; saving wants exactly this one to be stored still, and stores a greater one. 0: never saved."""
    watermarks: dict[str, int] = {}
    """By source: last position applied or set aside. A source that is missing was never seen."""
    gaps: dict[str, Gap] = {}
    """By source: what is missing of it."""
    counters: Counters = msgspec.field(default_factory=Counters)
    letters: int = 0
    """How many dead letters the partition has had; the next one gets the next number."""
    types: tuple[str, ...] | None = None
    """Event types that are handled, in order; None: nothing was read yet."""
    missed: dict[str, Missed] = {}
    """By type: those that were handled once, by a process of another version."""
    began: dict[str, int] = {}
    """By type: the offset behind which its handler began, for those that wanted nothing older."""
    catching_up: CatchUp | None = None
    """What is read again; the rest waits."""
    ids: dict[str, str] = {}
    """By source: id of the message at its watermark; empty or missing: not known."""


class DeadLetterState(enum.StrEnum):
    RETRYING = "retrying"  # attempts are left; the loop tries again at `due_at`
    DEAD = "dead"  # last attempt made: an operator decides
    WAITING = "waiting"  # behind another of its key
    RELEASED = "released"  # an operator asked for another try; the loop takes it next
    DISCARDED = "discarded"  # an operator gave it up; kept as a record, holds nothing back
    REFUSED = "refused"  # its source did not sign it: holds nothing back, and gives way to later ones


class DeadLetter(msgspec.Struct):
    """A message set aside in the subscriber's own database, with the reason; later ones of its key wait behind it."""

    partition: Partition
    offset: int
    source: str
    position: int
    previous: int
    key: str
    envelope: bytes
    """The encoded `Envelope` (JSON)."""
    data: bytes
    """The encoded event, or the bytes of what is no message."""
    state: DeadLetterState
    attempts: int = 0
    """Tries that have failed; 0: it waits behind another of its key."""
    due_at: float = 0.0
    """When it is tried again, seconds since the epoch."""
    error_type: str = ""
    """Class of the last error."""
    error: str = ""
    """Text of the last error, with the lines that led to it."""
    parked_at: float = 0.0
    """When it was set aside, seconds since the epoch."""
    number: int = 0
    """Counts the letters of a partition in the order of setting aside."""
    revision: int = 0
    """As it was loaded: see `Checkpoint.revision`."""

    @property
    def id(self) -> str:
        """`<topic>/<partition>:<number>`"""
        return f"{self.partition.place}:{self.number}"


class Lease(msgspec.Struct, frozen=True):
    """Who may work on `name` until it expires by the database's clock. Leases spare work; nothing relies on them."""

    name: str
    """Of what is worked on: `<topic>/<partition>`, or `relay`."""
    owner: str
    """Name of the worker."""
    expires_in_s: float
    """From now, by the database's clock."""


class Busy(msgspec.Struct, frozen=True):
    """A worker whose transaction at hand has been running for long."""

    worker: str
    running_s: float
    """For how long, by the database's clock."""
    what: str
    """The handler and its message, or what else is known of it."""


class Told(msgspec.Struct, frozen=True):
    """What a worker tells of itself with each heartbeat."""

    schema: int = 1
    """Of Ensue's own tables, that its process works with."""
    log: str = ""
    """The name of the log that it reads and sends to; empty: not known."""
    relay: tuple[str, ...] = ()
    """Why its relay sends nothing, or not everything."""

    def differs(self, other: Told) -> bool:
        """Whether the two work with different logs."""
        return bool(self.log and other.log) and self.log != other.log


class Stranger(msgspec.Struct, frozen=True):
    """A worker that was not let in, since it works with another log than those that lived then."""

    worker: str
    log: str
    seen_s: float
    """Seconds ago."""


class LeaseTable(msgspec.Struct, frozen=True):
    """All live leases and workers of a store, right after a heartbeat."""

    workers: tuple[str, ...]
    """Names of those that have sent a heartbeat lately, with or without leases."""
    leases: tuple[Lease, ...]
    handles: dict[str, dict[str, tuple[str, ...]]] = {}
    """By worker and topic: the event types that its version of the service handles."""
    suspects: tuple[str, ...] = ()
    """Names whose last worker ended without giving them up, until somebody has come past what it was at."""
    busy: tuple[Busy, ...] = ()
    told: dict[str, Told] = {}
    """By worker, of those that do tell."""
    stranger: Stranger | None = None
    """The last one within the last hour."""
    paused: tuple[str, ...] = ()
    """Names that nobody takes, and whoever has them gives up, because a person said so."""
    released: tuple[str, ...] = ()
    """Names that their worker gives up, because a person said so; anybody may take them then."""


class StoredResponse(msgspec.Struct, frozen=True):
    """The HTTP answer given for an Idempotency-Key, kept in the transaction whose effect it reports."""

    key: str
    """The Idempotency-Key, made different for different principals."""
    fingerprint: str
    """A hash of the request: the key with another request is refused."""
    status: int
    headers: dict[str, str]
    body: bytes
