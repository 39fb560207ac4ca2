"""How far a build is, how fast it goes, and how long it will take. Pure rules over samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from ensue.message import Bounds, Checkpoint
from ensue.views.ready import Where


class Progress(msgspec.Struct, frozen=True):
    """done, total: records of the log. at: when that was, by a monotonic clock."""

    done: int
    total: int
    at: float = 0.0

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else 1.0


def progress(
    checkpoints: Mapping[Where, Checkpoint], bounds: Mapping[Where, Bounds], wanted: Collection[Where], at: float = 0.0
) -> Progress:
    """What is in the log, and what of it is read."""
    done = total = 0
    for where in wanted:
        first, last = bounds.get(where, Bounds(1, 0))
        total += last - first + 1
        done += min(max(checkpoints.get(where, Checkpoint()).offset - first + 1, 0), last - first + 1)
    return Progress(done, total, at)


def rate(earlier: Progress, later: Progress) -> float:
    """Records per second between two samples.

    >>> rate(Progress(100, 900, at=1.0), Progress(300, 900, at=3.0))
    100.0
    """
    span = later.at - earlier.at
    return max(later.done - earlier.done, 0) / span if span > 0 else 0.0


def left_s(now: Progress, per_s: float) -> float | None:
    """Seconds until the rest is done at this rate; None: nobody can tell.

    >>> left_s(Progress(300, 900), 100.0), left_s(Progress(300, 900), 0.0)
    (6.0, None)
    """
    left = max(now.total - now.done, 0)
    return 0.0 if not left else left / per_s if per_s > 0 else None
