"""How fast a process may read: not at all, so many records a second, or as fast as it can."""

from __future__ import annotations

import math

#: A batch takes no more than what is due in so many seconds, so that a low rate is no rare burst.
_BATCH_S = 0.25


class Brake:
    """Of all partitions of one service in one process. Of a view that is being built an operator sets it."""

    def __init__(self) -> None:
        self._paused = False
        self._rate = 0.0
        self._free_at = -math.inf

    def set(self, *, paused: bool, rate: float) -> None:
        """rate: records per second; 0: no limit."""
        if rate != self._rate:
            self._free_at = -math.inf
        self._paused, self._rate = paused, rate

    def wait_s(self, now: float) -> float:
        """How long nothing may be read from now on.

        >>> brake = Brake()
        >>> brake.set(paused=False, rate=100.0)
        >>> brake.took(50, 0.0)
        >>> brake.wait_s(0.0), brake.wait_s(0.4) < 0.11, brake.wait_s(0.6), brake.limit(500)
        (0.5, True, 0.0, 25)
        """
        if self._paused:
            return math.inf
        return max(self._free_at - now, 0.0) if self._rate else 0.0

    def limit(self, batch: int) -> int:
        """How many records to read at once, where `batch` would do."""
        return max(min(batch, int(self._rate * _BATCH_S)), 1) if self._rate else batch

    def took(self, count: int, now: float) -> None:
        if self._rate and count:
            self._free_at = max(self._free_at, now) + count / self._rate
