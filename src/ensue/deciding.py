"""Who decides something about a service, from where, and why; and what is kept of it."""

from __future__ import annotations

import enum

import msgspec

from ensue.errors import UsageError
from ensue.texts import plain

#: Characters of a name, and of a reason.
ACTOR_CHARS_MAX, REASON_CHARS_MAX = 200, 1_000


class Face(enum.StrEnum):
    """Through which face it was decided."""

    CLI = "cli"
    CONSOLE = "console"
    API = "api"
    ADMIN = "admin"


class Deciding(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before anything is done. Raises UsageError for no actor, and for texts that are too long.

    >>> Deciding(actor="ann@desk", origin=Face.CLI, reason="rates are there now").actor
    'ann@desk'
    """

    actor: str
    origin: Face
    reason: str = ""

    def __post_init__(self) -> None:
        for name, text, most in (
            ("actor", self.actor, ACTOR_CHARS_MAX),
            ("reason", self.reason, REASON_CHARS_MAX),
        ):
            if not isinstance(text, str) or len(text) > most:
                raise UsageError(f"{name}={text!r:.60}, expected a text of at most {most} characters")
            msgspec.structs.force_setattr(self, name, plain(text))
        if not self.actor.strip():
            raise UsageError(f"actor={self.actor!r}: nobody decides; expected a name, such as ann@desk")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `ensue.tables.DECISIONS`, as every face shows it."""

    id: str
    decided_at: float
    """Seconds since the epoch, by the service's database."""
    actor: str
    origin: str
    """A `Face`, or one that only a newer Ensue knows."""
    action: str
    """`dead-letters retry`, say: the command that does it, whichever face it came through."""
    target: str
    reason: str
    before: msgspec.Raw
    """What was decided on, as JSON."""
    after: msgspec.Raw
    """What has become of it, as JSON."""
