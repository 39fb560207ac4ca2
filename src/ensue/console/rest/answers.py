"""What the API answers, as JSON. The read models are of `ensue.operations`; here is what it adds or leaves out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from ensue.console.access import Action, Role
from ensue.console.payloads import Payloads
from ensue.message import DeadLetterState
from ensue.operations.flow.sagas import SagaSeen
from ensue.operations.flow.sequence import Published as FlowEvent
from ensue.operations.gaps import GapAt
from ensue.operations.groups import Group
from ensue.operations.letter_decisions import LetterDecided
from ensue.operations.sagas import SagaLine


class Me(msgspec.Struct):
    """Who asks, and what they may do. payloads: how much of users' data is shown here."""

    name: str
    roles: list[Role]
    allowed: list[Action]
    payloads: Payloads


class ServiceSummary(msgspec.Struct, kw_only=True):
    """One service in a line. error: why nothing else is known of it; empty: it answered. unsent: records of the outbox
    that are not known to be in the log. lag: records that are still to be dealt with; null: the log cannot be asked.
    dead_letters, sagas: by state, those that have not ended. hindrances: what holds something back, in words."""

    service: str
    view: bool
    error: str
    workers: int = 0
    gone: int = 0
    unsent: int = 0
    lag: int | None = None
    dead_letters: dict[str, int] = {}
    gaps: dict[str, int] = {}
    sagas: dict[str, int] = {}
    paused: list[str] = []
    hindrances: list[str] = []


class ServiceList(msgspec.Struct):
    services: list[ServiceSummary]


class EventFlow(msgspec.Struct):
    """One event type or command: who publishes or sends it, who calls it, who handles it (service: names of handlers).
    reply: of a command, the name of its answer's class; null: it is an event."""

    type: str
    topic: str
    publishers: Sequence[str]
    callers: Sequence[str]
    subscribers: dict[str, Sequence[str]]
    reply: str | None


class SagaDeclared(msgspec.Struct):
    """A saga: its versions, the command that starts it (empty: a step does), and those that its code names."""

    service: str
    name: str
    versions: Sequence[int]
    handles: str
    calls: Sequence[str]


class Topology(msgspec.Struct):
    """warnings: what may be a mistake, as far as these services can tell."""

    events: list[EventFlow]
    sagas: list[SagaDeclared]
    warnings: list[str]


class LetterSummary(msgspec.Struct):
    """A letter in a list. error: the first line of its text. Times in seconds since the epoch, 0: none."""

    id: str
    state: DeadLetterState
    topic: str
    partition: int
    number: int
    offset: int
    source: str
    position: int
    key: str
    type: str
    attempts: int
    due_at: float
    parked_at: float
    error_type: str
    error: str


class LetterPage(msgspec.Struct):
    """total: in these states. next: what to give as `after` for those that follow; null: there are none."""

    letters: list[LetterSummary]
    total: int
    next: str | None


class LetterShown(LetterSummary):
    """A letter with all that is known of it. error: with the lines that led to it. behind: ids of the letters of its
    key that wait for it. data: as far as `payloads` shows it; raw: the very bytes in base64, where it shows all; seen:
    what an edit of them wants, there too."""

    headers: dict[str, Any]
    data: Any
    raw: str | None
    seen: str | None
    payloads: Payloads
    behind: list[str]


class LettersDecided(msgspec.Struct):
    """decided, passed: how many; passed over are those on which somebody else was quicker to decide, or that took
    effect. stopped: why the rest was not looked at; empty: all were."""

    decided: int
    passed: int
    letters: list[LetterDecided]
    stopped: str = ""


class LetterNow(msgspec.Struct):
    """A letter after a decision. works: whether a worker lives, by whom it takes effect."""

    id: str
    state: DeadLetterState
    works: bool


class GroupList(msgspec.Struct):
    groups: list[Group]


class GapList(msgspec.Struct):
    gaps: list[GapAt]


class GapDecided(msgspec.Struct):
    """position: behind which it goes on."""

    topic: str
    partition: int
    source: str
    position: int


class Purged(msgspec.Struct):
    deleted: int


class Replayed(msgspec.Struct):
    """Where a type is handled again, as soon as the partitions' workers see this."""

    type: str
    partitions: list[str]


class Record(msgspec.Struct, kw_only=True):
    """One record of the outbox. held: a record before it, or itself, is one that the broker does not take. refused: it
    is that one, and can be withdrawn. withdrawn: an empty record goes out instead."""

    position: int
    previous: int
    topic: str
    partition: int
    key: str
    sent: bool
    held: bool
    refused: bool
    withdrawn: bool
    headers: dict[str, Any]
    data: Any


class RecordPage(msgspec.Struct):
    """sent: up to this position all is in the log. head: the last position that was written. next: as `after`."""

    records: list[Record]
    sent: int
    head: int
    next: int | None
    payloads: Payloads


class EventWithdrawn(msgspec.Struct):
    """position: of the empty record that goes out in its place."""

    id: str
    type: str
    topic: str
    partition: int
    position: int


class EpochBegun(msgspec.Struct):
    """source: under which the service publishes from now on, when it is started again."""

    ended: str
    source: str


class EventPublished(msgspec.Struct):
    """position: of its record; 0: it has none yet, while an older transaction of the database is open."""

    id: str
    type: str
    topic: str
    partition: int
    key: str
    position: int
    correlation_id: str


class TimerShown(msgspec.Struct):
    """An event that is published later. recurring: the step whose next run it is; null: none."""

    id: str
    due_at: float
    topic: str
    partition: int
    key: str
    recurring: str | None
    headers: dict[str, Any]
    data: Any


class TimerPage(msgspec.Struct):
    timers: list[TimerShown]
    total: int
    next: str | None
    payloads: Payloads


class TimersCancelled(msgspec.Struct):
    cancelled: list[str]


class SagaPage(msgspec.Struct):
    sagas: list[SagaLine]
    total: int
    next: str | None


class SagaShown(SagaLine, kw_only=True):
    """A saga with all that is known of it; users' data as far as `payloads` shows it. revision: another one as soon as
    it has gone on."""

    request: Any
    journal: list[Any]
    undos: list[Any]
    mailbox: list[Any]
    decisions: list[Any]
    revision: int
    payloads: Payloads


class SagasOrdered(msgspec.Struct):
    """Each is done as soon as a worker reads it. skipped: what a skip settles."""

    sagas: list[str]
    skipped: str = ""


class Flow(msgspec.Struct):
    """One business transaction. not_looked_at: what is older than `records` reach. unanswered: what could not be looked
    at, and why."""

    correlation_id: str
    events: list[FlowEvent]
    sagas: list[SagaSeen]
    not_looked_at: list[str]
    unanswered: dict[str, str]


class DecisionShown(msgspec.Struct):
    """before, after: of the target, users' data in them as far as `payloads` shows it."""

    id: str
    decided_at: float
    actor: str
    origin: str
    action: str
    target: str
    reason: str
    before: Any
    after: Any


class DecisionPage(msgspec.Struct):
    """next: as `after`, for those that follow. previous: of a page that was read from the end, as `before`, for those
    before it. null: there are none, or it was read the other way. total: of all; null: more than these, which are not
    counted, since nothing prunes them."""

    decisions: list[DecisionShown]
    total: int | None
    next: str | None
    payloads: Payloads
    previous: str | None


_encode = msgspec.json.Encoder().encode

#: For every answer: it is of this moment and this actor, and JSON whatever it looks like.
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def written(answer: Any) -> bytes:
    """As JSON. Half a character, which a key from outside may hold and no UTF-8 can, is written as its escape."""
    try:
        return _encode(answer)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(answer), separators=(",", ":")).encode("ascii")


def answered(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(written(answer), status, {**HEADERS, **(headers or {})}, "application/json")
