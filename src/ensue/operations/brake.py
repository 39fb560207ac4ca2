"""How a group of failures is tried again: few first, then more, and no further when one fails anew. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from ensue.message import DeadLetterState

#: How many letters a wave has; the last wave has what is left.
WAVES: Final = (1, 10, 100)

_FAILED = (DeadLetterState.DEAD, DeadLetterState.RETRYING)
_UNDECIDED = (DeadLetterState.RELEASED, DeadLetterState.WAITING)


def waves(ids: Sequence[str]) -> list[Sequence[str]]:
    """In order, none left out, none twice.

    >>> [len(each) for each in waves([str(number) for number in range(500)])]
    [1, 10, 100, 389]
    """
    found: list[Sequence[str]] = []
    begin = 0
    for size in (*WAVES, len(ids)):
        if wave := ids[begin : begin + size]:
            found.append(wave)
        begin += size
    return found


class Seen(NamedTuple):
    """What has become of letters that were released, and of those that wait behind them."""

    settled: frozenset[str]
    """They took effect, or somebody gave them up."""
    failed: frozenset[str]
    pending: frozenset[str]


def judged(watched: Collection[str], found: Mapping[str, DeadLetterState]) -> Seen:
    """watched: ids. found: the states of those that are still there: one that took effect is gone.

    One that has failed an attempt counts as failed, though it may have more: the brake is for not finding that out
    with all of them.

    >>> judged(["a", "b"], {"b": DeadLetterState.RETRYING}).failed
    frozenset({'b'})
    """
    failed = frozenset(each for each in watched if found.get(each) in _FAILED)
    pending = frozenset(each for each in watched if found.get(each) in _UNDECIDED)
    return Seen(frozenset(watched) - failed - pending, failed, pending)
