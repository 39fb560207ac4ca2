"""The journal of a saga: what its code has asked for, and what came of it, in order.

By order, and not by the names of steps: a step that moves would silently be done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ensue.failure import Failure, read, written

_encode = msgspec.json.Encoder().encode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
NULL: Final = msgspec.Raw(b"null")


class Issued(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="issued"):
    """The code has asked for something: what a replay has to ask for again. key: of a call, or of a step's entity."""

    number: int
    kind: str
    name: str = ""
    key: str = ""

    def __str__(self) -> str:
        return f"{self.what} for {self.key}" if self.key else self.what

    @property
    def what(self) -> str:
        """It without its key."""
        return f"{self.kind} {self.name}".rstrip()

    @property
    def asks(self) -> tuple[str, str, str]:
        return self.kind, self.name, self.key


class Resolved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="resolved"):
    """What an operation came to: `data` as JSON, or a failure by name and fields. at: seconds since the epoch."""

    number: int
    at: float
    data: msgspec.Raw = NULL
    failure: str = ""
    fields: dict[str, msgspec.Raw] = {}

    @classmethod
    def of(cls, number: int, at: float, data: bytes, failure: Refusal | None) -> Resolved:
        if failure is None:
            return cls(number, at, msgspec.Raw(data))
        return cls(number, at, failure=failure.name, fields=failure.fields)

    def raised(self) -> Failure:
        """Of one that has failed: the failure, made anew from its name and fields."""
        return read(self.failure, _encode(self.fields))


Entry = Issued | Resolved
write_journal = _encode
read_journal = msgspec.json.Decoder(list[Entry]).decode


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A failure as it travels."""

    name: str
    fields: dict[str, msgspec.Raw] = {}

    @classmethod
    def of(cls, failure: Failure) -> Refusal:
        """Raises UsageError for values that would not come back as they are."""
        name, fields = written(failure)
        return cls(name, _read_fields(fields))

    def failure(self) -> Failure:
        return read(self.name, _encode(self.fields))


def open_one(journal: Sequence[Entry], number: int) -> Issued | None:
    """What `still_open` has of that number: near the end of the journal, as what is answered usually is."""
    for entry in reversed(journal):
        if entry.number == number:
            return entry if isinstance(entry, Issued) and entry.kind != "pivot" else None
    return None


def still_open(journal: Sequence[Entry]) -> dict[int, Issued]:
    """What was asked for and is not resolved, by number, in order. What nobody waits for is never open."""
    found: dict[int, Issued] = {}
    for entry in journal:
        if isinstance(entry, Resolved):
            found.pop(entry.number, None)
        elif entry.kind != "pivot":
            found[entry.number] = entry
    return found
