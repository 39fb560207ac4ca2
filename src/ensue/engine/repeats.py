"""How often a source sends the same records again: whoever asks pays nothing, so it must cost the log little.

To go on is free: what was not sent again lately is sent at once. To send the same again has its price: a pause that
doubles with each time, and that is never shorter than the sending took. No clock: times are given, in seconds.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Repeats:
    """What was lately sent again of one partition: (after, through].

    first_s, longest_s: of the pause until the same may be sent once more; it doubles with each time, and begins anew
    after as long without one.
    """

    first_s: float
    longest_s: float
    after: int = 0
    through: int = 0
    _pause_s: float = 0.0
    _until: float = float("-inf")

    def allowed(self, after: int, now: float) -> int | None:
        """Through which position what follows `after` may be sent again now; 0: to the end; None: nothing of it.

        >>> lately = Repeats(1.0, 60.0)
        >>> lately.allowed(50, now=0.0), lately.sent(50, 100, began=0.0, now=0.1)
        (0, None)
        >>> lately.allowed(50, 0.5), lately.allowed(70, 0.5), lately.allowed(100, 0.5)  # the same; a part; what follows
        (None, None, 0)
        >>> lately.allowed(0, 0.5), lately.allowed(45, 0.5)  # as much that is new, or more, than is repeated; or less
        (0, 50)
        >>> lately.allowed(50, 1.2)
        0
        """
        if now >= self._until or after >= self.through:
            return 0
        if after >= self.after:
            return None
        return 0 if self.after - after >= self.through - self.after else self.after

    def sent(self, after: int, through: int, began: float, now: float) -> None:
        """(after, through] was sent again, as it was allowed."""
        if began < self._until:  # beside what was sent before: no repetition
            self.after, self.through = min(self.after, after), max(self.through, through)
            self._until = max(self._until, now + self._pause_s)
            return
        again = began < self._until + self.longest_s
        self._pause_s = min(2 * self._pause_s, self.longest_s) if again else self.first_s
        self.after, self.through = after, through
        self._until = now + max(self._pause_s, now - began)
