"""Which ids of the outbox have been read, when ids are taken before commits: a mark, and the holes below it.

Pure. An id that is missing below a visible one belongs to a transaction that is still open, or to one that was rolled
back. It is kept as a hole until every transaction that had begun to write by then has ended: what is not visible after
that never will be.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Hole(NamedTuple):
    """Ids first to last are not visible yet. before: the transactions that may still fill it have lower ids than this;
    0: than the one that is about to write it down."""

    first: int
    last: int
    before: int


def advance(
    seen: int, holes: Sequence[Hole], taken: Sequence[int], oldest: int, *, whole: bool
) -> tuple[int, list[Hole]]:
    """Return mark and holes after the ids `taken`, in order, were given positions.

    seen: the mark so far. oldest: the lowest transaction id that was still open when they were read. whole: everything
    that was visible in the holes then is among `taken`.
    """
    left: list[Hole] = []
    for hole in holes:
        if whole and hole.before <= oldest:
            continue
        begin = hole.first
        for id_ in taken[bisect_left(taken, hole.first) : bisect_right(taken, hole.last)]:
            if id_ > begin:
                left.append(Hole(begin, id_ - 1, hole.before))
            begin = id_ + 1
        if begin <= hole.last:
            left.append(Hole(begin, hole.last, hole.before))
    for id_ in taken[bisect_right(taken, seen) :]:
        if id_ > seen + 1:
            left.append(Hole(seen + 1, id_ - 1, 0))
        seen = id_
    return seen, left
