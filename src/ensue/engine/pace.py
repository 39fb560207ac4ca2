"""How often the relay looks for news under steady load: a look, a stamp and an append cost the same for one record as
for twenty, so that when commits come faster than this they are taken together."""

from __future__ import annotations

#: Batches a second over a longer time, and how many may follow each other at once after a quiet one.
PER_S, AT_ONCE = 100.0, 20.0


class Pace:
    """A bucket of AT_ONCE turns that fills up by PER_S a second. now: monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._left = AT_ONCE
        self._at = now

    def turn(self, now: float) -> float:
        """Take one turn; return how long to wait before the next (0 as long as there are some left)."""
        self._left = min(AT_ONCE, self._left + (now - self._at) * PER_S) - 1.0
        self._at = now
        return max(-self._left, 0.0) / PER_S
