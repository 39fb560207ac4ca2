"""What comes to a saga: answers, timers, events and people's orders, as values."""

from __future__ import annotations

import msgspec

from ensue.saga.instance import Skip
from ensue.saga.journal import Refusal


class Answered(msgspec.Struct, frozen=True, gc=False):
    """A command, a local step or an outside effect came to this: `data` as JSON, or a failure. attempt: at an outside
    effect; 0: the one at hand."""

    number: int
    data: bytes = b"null"
    failure: Refusal | None = None
    attempt: int = 0


class Broke(msgspec.Struct, frozen=True, gc=False):
    """An attempt at an outside effect failed; nobody knows what it has done."""

    number: int
    attempt: int
    reason: str


class Again(msgspec.Struct, frozen=True, gc=False):
    """An attempt at an outside effect was cut short because its process stops. It does not count."""

    number: int
    attempt: int


class AtWork(msgspec.Struct, frozen=True, gc=False):
    """The timer of an outside effect has gone off that this process is still at, or has not come to."""

    number: int


class Elapsed(msgspec.Struct, frozen=True, gc=False):
    """A timer has gone off."""

    number: int


class Told(msgspec.Struct, frozen=True, gc=False):
    type: str
    data: bytes


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Somebody wants it undone."""

    who: str = ""
    why: str = ""


class Retry(msgspec.Struct, frozen=True, gc=False):
    """A person has looked at a parked saga: it goes on."""

    who: str = ""
    why: str = ""


class SkipOperation(msgspec.Struct, frozen=True, gc=False):
    """A person has settled what a parked saga is at: it goes on as if that had come to this. number: of the operation;
    skip: what counts for it; None: the undo of that operation counts as done."""

    number: int
    skip: Skip | None
    who: str = ""
    why: str = ""


Incoming = Answered | Broke | Again | AtWork | Elapsed | Told | Cancel | Retry | SkipOperation
