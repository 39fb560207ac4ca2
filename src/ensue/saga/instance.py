"""One saga as its row holds it."""

from __future__ import annotations

from enum import StrEnum
from operator import attrgetter
from typing import Final

import msgspec

from ensue.event import as_now, is_older, now_of
from ensue.ports import Row
from ensue.saga.journal import NULL, Entry, Issued, Refusal, read_journal, write_journal
from ensue.saga.outside import Outside
from ensue.saga.undo import Undo, read_undos, write_undos
from ensue.saga.wake import Answers, parts_of
from ensue.texts import plain


class Status(StrEnum):
    """What a saga is at; the last two are its ends."""

    RUNNING = "RUNNING"
    UNDOING = "UNDOING"
    PARKED = "PARKED"
    COMPLETED = "COMPLETED"
    UNDONE = "UNDONE"


#: Of a text for people, in characters.
_TEXT_MAX: Final = 4_000

#: So many events are kept that a saga was told and has not received.
MAILBOX_MAX: Final = 1_000
#: So many decisions are kept.
DECISIONS_MAX: Final = 100

ENDED: Final = (Status.COMPLETED, Status.UNDONE)
LIVING: Final = (Status.RUNNING, Status.UNDOING, Status.PARKED)


class Mail(msgspec.Struct, frozen=True, gc=False):
    """An event that was told and not received yet."""

    type: str
    data: msgspec.Raw


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody has ordered, and when it took effect. who, why: as they say; may be empty."""

    at: float
    what: str
    who: str = ""
    why: str = ""


class Skip(msgspec.Struct, frozen=True, omit_defaults=True):
    """What counts for an operation instead of doing it. asks: what it has to ask for; see `Issued.asks`."""

    asks: tuple[str, str, str]
    data: msgspec.Raw = NULL
    failure: Refusal | None = None


class Counted(msgspec.Struct, frozen=True, gc=False):
    """So many entries of a journal, the last of which is `last`, have about so many bytes: see `room`."""

    entries: int
    last: Entry
    size: int


class State(msgspec.Struct, gc=False, omit_defaults=True):
    """What of a row no query asks for."""

    last: int = 0
    """The last number that was given."""
    generation: int = 0
    """So often it began a new journal."""
    restarted_at: float = 0.0
    hasty: int = 0
    """Restarts in a row that no wait went before."""
    pivoted: bool = False
    began_pivoted: bool = False
    """Its journal began after the pivot."""
    resumes: str = ""
    """PARKED: the status to which it goes back."""
    stop: Refusal | None = None
    """It is to be undone for this."""
    ending: Refusal | None = None
    """It is undone, or is being undone, for this."""
    returned: bool = False
    result: msgspec.Raw = NULL
    """What its function returned."""
    sent: dict[str, int] = {}
    """Commands that are not answered, by id: the number that asks."""
    timers: dict[int, str] = {}
    """Timers that are set, by number: their ids."""
    answers: Answers | None = None
    """Who waits for its end."""
    outside: dict[int, Outside] = {}
    """Outside effects that have not come to anything, by number."""
    decisions: list[Decision] = []
    """The last ones."""
    skips: dict[int, Skip] = {}
    """Operations that are not to be done once they are asked for, by number."""


class Instance(State, kw_only=True, gc=False):
    """A saga. key: `<name>:<id>`, of its row and of all its records."""

    key: str
    version: int
    status: Status
    correlation_id: str
    started_at: float
    updated_at: float
    request: bytes
    waits_for: str = ""
    reason: str = ""
    journal: list[Entry] = []
    undos: list[Undo] = []
    mailbox: list[Mail] = []
    revision: int = 0
    counted: Counted | None = None
    """Of its journal, in this process; no column has it."""

    @property
    def name(self) -> str:
        return parts_of(self.key)[0]

    @property
    def goes_by(self) -> str:
        """Its status, or the one to which it goes back."""
        return self.resumes or self.status

    def next_number(self) -> int:
        self.last += 1
        return self.last


_state_of: Final = attrgetter(*State.__struct_fields__)
_NONE: Final = b"[]"
_encode = msgspec.json.Encoder().encode
_read_state = msgspec.json.Decoder(State).decode
_read_mail = msgspec.json.Decoder(list[Mail]).decode


def _storable(text: str) -> str:
    """What every database keeps as text, in lines."""
    if text.isprintable() and len(text) <= _TEXT_MAX:
        return text  # as most are
    return "\n".join(map(plain, text[:_TEXT_MAX].split("\n")))


def row_of(saga: Instance, revision: int) -> Row:
    """In the order of `tables.SAGAS`."""
    return (
        saga.key, saga.name, saga.version, str(saga.status), saga.correlation_id, saga.started_at, saga.updated_at,
        _storable(saga.waits_for), _storable(saga.reason), saga.request, write_journal(saga.journal),
        write_undos(saga.undos) if saga.undos else _NONE, _encode(saga.mailbox) if saga.mailbox else _NONE,
        _encode(State(*_state_of(saga))), revision,
    )  # fmt: skip


def _mail_as_now(mail: Mail) -> Mail:
    kind, data = as_now(mail.type, bytes(mail.data))
    return mail if kind == mail.type else Mail(kind, msgspec.Raw(data))


def received_as_now(journal: list[Entry]) -> list[Entry]:
    """What it has received of versions of events that upcasters read, as its code of today asks for it."""
    older = {
        each.number: each.name
        for each in journal
        if isinstance(each, Issued) and each.kind == "receive" and is_older(each.name)
    }
    if not older:
        return journal
    found: list[Entry] = []
    for each in journal:
        name = older.get(each.number)
        if name is None:
            found.append(each)
        elif isinstance(each, Issued):
            found.append(msgspec.structs.replace(each, name=now_of(name).type))
        elif each.failure:
            found.append(each)
        else:
            found.append(msgspec.structs.replace(each, data=msgspec.Raw(as_now(name, bytes(each.data))[1])))
    return found


def instance_of(row: Row) -> Instance:
    key, _, version, status, correlation_id, started_at, updated_at, waits_for, reason = row[:9]
    request, journal, undos, mailbox, state, revision = row[9:]
    return Instance(
        *_state_of(_read_state(state)), key=key, version=version, status=Status(status), correlation_id=correlation_id,
        started_at=started_at, updated_at=updated_at, waits_for=waits_for, reason=reason, request=bytes(request),
        journal=received_as_now(read_journal(journal)), undos=read_undos(undos) if undos != _NONE else [],
        mailbox=[_mail_as_now(each) for each in _read_mail(mailbox)] if mailbox != _NONE else [], revision=revision,
    )  # fmt: skip
