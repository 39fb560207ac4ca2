"""Failures that have one cause, as far as can be told: one handler, one type of error, one line of the user's code.

Pure rules over what a dead letter says; nothing is stored. A group's name is made of what it has in common, so the same
fault has the same name on every machine, and after a deploy that has moved the line.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ensue.errors import UsageError
from ensue.message import DeadLetter, DeadLetterState
from ensue.operations.letters import LetterLine

#: What has failed: not what waits behind it, or was decided.
FAILED = (DeadLetterState.DEAD, DeadLetterState.RETRYING)
#: As `engine/dead_letters.py` begins the text of an error, and `engine/reason.py` shows a call.
_HANDLER = re.compile(r"handler ([^\s:]+): ")
_CALL = re.compile(
    r'^  File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)(?:\n    (?P<source>.*))?', re.MULTILINE
)
_NAME_BYTES, _MARK_BYTES = 4, 8


class Cause(NamedTuple):
    """What letters of one group have in common. handler: empty when none is known. call: the first line of the user's
    code, as it reads, and its function; empty when the error has none."""

    handler: str
    error_type: str
    call: str

    @property
    def name(self) -> str:
        """
        >>> Cause("book", "KeyError", "in book: rate[event.account]").name
        'cd3e11ee'
        """
        return hashlib.blake2s("\0".join(self).encode(), digest_size=_NAME_BYTES).hexdigest()


class Group(msgspec.Struct, kw_only=True):
    """Letters of one cause. Times in seconds since the epoch."""

    name: str
    handler: str
    error_type: str
    error: str
    """What the last one says, in a line."""
    place: str
    """`<file>:<line> in <function>` of the last one; empty: not known."""
    dead: int = 0
    retrying: int = 0
    first_at: float
    """When the first of them was set aside."""
    last_at: float
    last: str
    """Id of the last one."""
    seen: str = ""
    """Of which letters are dead: another text as soon as it is one more, one less, or another one."""


def cause_of(error_type: str, error: str) -> Cause:
    """
    >>> cause_of("KeyError", "handler book: 'bob'\\n  File \\"/app/shop.py\\", line 17, in book\\n    rate[account]")
    Cause(handler='book', error_type='KeyError', call='in book: rate[account]')
    """
    handler, call = _HANDLER.match(error), _CALL.search(error)
    # Without its source line, a function's lines are told apart by their numbers.
    said = "" if call is None else f"in {call['function']}: {call['source'] or call['line']}"
    return Cause("" if handler is None else handler[1], error_type, said)


def place_of(error: str) -> str:
    call = _CALL.search(error)
    return "" if call is None else f"{os.path.basename(call['file'])}:{call['line']} in {call['function']}"


def said_of(error: str) -> str:
    """The first line of what the error says, without its handler."""
    return _HANDLER.sub("", error.partition("\n")[0], count=1)


def seen_of(ids: Iterable[str]) -> str:
    """What `Group.seen` is of letters with these ids, in any order.

    >>> seen_of(["a", "b"]) == seen_of(["b", "a"]) != seen_of(["a", "c"])
    True
    """
    return f"{functools.reduce(operator.xor, map(_mark_of, ids), 0):0{2 * _MARK_BYTES}x}"


def _mark_of(letter_id: str) -> int:
    return int.from_bytes(hashlib.blake2s(letter_id.encode(), digest_size=_MARK_BYTES).digest())


class Grouping:
    """Takes letters in the order of setting aside; keeps nothing of them but the counts, and what the last one says."""

    def __init__(self) -> None:
        self._groups: dict[Cause, Group] = {}
        self._last: dict[Cause, str] = {}
        self._seen: Counter[Cause] = Counter()

    def add(self, letter: DeadLetter | LetterLine) -> Cause:
        """Return its cause, by which it is counted."""
        cause = cause_of(letter.error_type, letter.error)
        group = self._groups.get(cause)
        if group is None:
            group = self._groups[cause] = Group(
                name=cause.name, handler=cause.handler, error_type=cause.error_type, error="", place="",
                first_at=letter.parked_at, last_at=letter.parked_at, last=letter.id,
            )  # fmt: skip
        if letter.state is DeadLetterState.DEAD:
            group.dead += 1
            self._seen[cause] ^= _mark_of(letter.id)
        group.retrying += letter.state is DeadLetterState.RETRYING
        group.last_at, group.last = letter.parked_at, letter.id
        self._last[cause] = letter.error
        return cause

    @property
    def groups(self) -> list[Group]:
        """The largest first; of one size, that which failed last."""
        for cause, error in self._last.items():
            self._groups[cause].error, self._groups[cause].place = said_of(error), place_of(error)
            self._groups[cause].seen = f"{self._seen[cause]:0{2 * _MARK_BYTES}x}"
        return sorted(self._groups.values(), key=lambda each: (each.dead + each.retrying, each.last_at), reverse=True)


def found_group(name: str, groups: list[Group]) -> Group:
    """Return the group; raise UsageError that names what there is."""
    for each in groups:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in groups[:10]) or "none"
    raise UsageError(
        f"there is no group {name} of dead letters: expected one of those that `ensue dead-letters groups` shows "
        f"({known}); its letters may have taken effect, or fail otherwise now",
        group=name,
    )
