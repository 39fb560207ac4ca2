"""When a process that has ended by itself is started again. A pure rule over values."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """Exponential backoff without an end: whoever sees the log decides whether to give up, nobody else."""

    first_s: float = 1.0
    """The pause after the first failure."""
    factor: float = 2.0
    """Each further pause is so many times the one before."""
    max_s: float = 30.0
    """But not longer than this."""
    well_s: float = 60.0
    """A process that has run for so long was well: what ends it is a first failure again."""

    def failures(self, before: int, ran_s: float) -> int:
        """How many failures in a row there are now, with that of a process that has run for `ran_s` seconds."""
        return 1 if ran_s >= self.well_s else before + 1

    def pause_s(self, failures: int) -> float:
        """Seconds until the next start, after so many failures in a row.

        >>> [Restarts().pause_s(failures) for failures in (1, 2, 3, 6, 5000)]
        [1.0, 2.0, 4.0, 30.0, 30.0]
        """
        pause = self.first_s
        for _ in range(failures - 1):
            if pause >= self.max_s:
                break
            pause *= self.factor
        return min(pause, self.max_s)
