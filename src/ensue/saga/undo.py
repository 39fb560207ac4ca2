"""How a saga is undone: a stack of local steps, commands and outside effects, data in its row, so that its function is
not needed.

It is run in reverse, one after the other. What fails is tried again, ever later; after its last attempt the saga is
parked for a person. The undo of a call whose time limit is over is begun at once: whatever became of the call lies
before it, in the same partition of the same source. The undo of an outside effect waits for the attempt at hand.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, Literal

import msgspec

ATTEMPTS_MAX: Final = 10
_FIRST_S: Final = 1.0
_LONGEST_S: Final = 300.0

State = Literal["", "begun", "failed", "waits"]


class Undo(msgspec.Struct, gc=False, omit_defaults=True):
    """of: the number of the operation that it undoes. topic, type and key: a command's. number: of the attempt."""

    of: int
    kind: Literal["local", "call", "outside"]
    name: str
    """Of a local step or an outside function, or a command's type."""
    data: msgspec.Raw
    topic: str = ""
    key: str = ""
    limit_s: float = 0.0
    """outside: of each attempt."""
    at_once: bool = False
    number: int = 0
    attempts: int = 0
    """That failed."""
    state: State = ""
    """Empty: to be begun."""

    def __str__(self) -> str:
        return f"undo {self.name}"


read_undos = msgspec.json.Decoder(list[Undo]).decode
write_undos = msgspec.json.Encoder().encode


def delay_s(attempts: int) -> float:
    """How long after so many failures the next attempt is made.

    >>> [delay_s(attempts) for attempts in (1, 2, 3, 20)]
    [1.0, 2.0, 4.0, 300.0]
    """
    return float(min(_FIRST_S * 2 ** (attempts - 1), _LONGEST_S))


def next_to_begin(undos: list[Undo], *, undoing: bool, busy: Container[int] = ()) -> list[Undo]:
    """Which ones begin now: those that are due at once, and of the others the last one, unless one of them is at
    work, or what it undoes is. busy: the numbers of these.

    >>> a, b = (Undo(number, "local", "x", msgspec.Raw(b"1")) for number in (1, 2))
    >>> [each.of for each in next_to_begin([a, b], undoing=True)], next_to_begin([a, b], undoing=False)
    ([2], [])
    >>> next_to_begin([a, b], undoing=True, busy={2})
    []
    """
    found = [each for each in undos if each.at_once and not each.state]
    stack = [each for each in undos if not each.at_once]
    if undoing and stack and not any(each.state for each in stack) and stack[-1].of not in busy:
        found.append(stack[-1])
    return found
