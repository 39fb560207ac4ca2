"""What wakes a saga, besides the answers to its commands: a record in the topic `<service>.replies`, keyed by the saga.

All that ever happens to one saga has one key, so it comes in one partition, in order, behind one checkpoint.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ensue.errors import UsageError
from ensue.event import EventType
from ensue.formats import of_msgspec
from ensue.handler import EVENT, Handler
from ensue.reply import replies_of
from ensue.saga.journal import Refusal
from ensue.texts import plain

#: How sagas and local steps are named. No colon: it ends the name in a saga's key.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
#: A key is the id of a row, and an attribute of commands.
ID_CHARS_MAX = 120


#: What people may order of a saga.
Ordered = Literal["cancel", "retry", "skip"]
#: Of who ordered it and why, in characters.
SAID_MAX = 1_000


class Answers(msgspec.Struct, frozen=True, gc=False):
    """Who waits for the end of a saga that a command has started. command: its message id. topic, key: of the answer;
    the topic is empty: nobody does."""

    command: str
    topic: str
    key: str


class Wake(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The data of a record of type SAGA, or of TOLD when it is told. The saga is the record's key."""

    kind: Literal["start", "told", "due", "cancel", "retry", "skip", "came", "broke", "again"]
    version: int = 0
    """start: of the code that it stays with."""
    deadline_s: float = 0.0
    """start: seconds; 0: it has none."""
    answers: Answers | None = None
    """start: by a command."""
    number: int = 0
    """due: which timer it is. came, broke, again: of the outside effect. skip: of the operation, or of the one whose
    undo it is."""
    type: str = ""
    """told: the event's."""
    data: msgspec.Raw = msgspec.Raw(b"null")
    """start: the request; told: the event; came: what the outside function returned; skip: what is to count for it."""
    refusal: Refusal | None = None
    """came, skip: the failure that it raised instead."""
    attempt: int = 0
    """broke, again, and came with a refusal: at the outside effect."""
    reason: str = ""
    """broke: why."""
    asks: tuple[str, str, str] = ("", "", "")
    """skip: what the operation asks for, as in the journal; empty: an undo is skipped."""
    who: str = ""
    why: str = ""
    """cancel, retry, skip: who ordered it, and why."""


write_wake = msgspec.json.Encoder().encode
read_wake = msgspec.json.Decoder(Wake).decode


def wake_handler(service: str, kind: str) -> Handler:
    """By which a service subscribes to what wakes its sagas, of type SAGA or TOLD. The engine hands them to
    `engine.sagas`, and not to it."""
    event = EventType(Wake, kind, of_msgspec(Wake), replies_of(service), "kind", "saga", 1)
    return Handler("sagas", event, _woken, (EVENT,), False)


def _woken(wake: Wake) -> None:
    raise AssertionError("sagas are run by the engine")


def key_of(name: str, saga_id: object) -> str:
    """The key of a saga: of its row, its records and the answers to its commands. Raises UsageError."""
    text = str(saga_id)
    if saga_id is None or not 0 < len(text) <= ID_CHARS_MAX or not text.isascii() or not text.isprintable():
        raise UsageError(
            f"saga {name}: id={saga_id!r:.150}, expected something whose text is 1 to {ID_CHARS_MAX} printable ASCII "
            "characters, such as a UUID or a number"
        )
    return f"{name}:{text}"


def checked_words(who: str, why: str) -> tuple[str, str]:
    """Who orders something and why, in one line each. Raises UsageError for what is no text, or too much."""
    for name, text in (("who", who), ("why", why)):
        if not isinstance(text, str) or len(text) > SAID_MAX:
            raise UsageError(f"{name}={text!r:.60}, expected a text of at most {SAID_MAX} characters")
    return plain(who), plain(why)


def after_all_of(name: str) -> str:
    """What comes behind the keys of all sagas of this name, and before any of another one of which it is the beginning.

    >>> key_of("pay", "~"), after_all_of("pay")
    ('pay:~', 'pay;')
    """
    return f"{name};"


def parts_of(key: str) -> tuple[str, str]:
    """Name and id of a saga."""
    name, _, saga_id = key.partition(":")
    return name, saga_id
