"""When a failed message is tried again, and when it becomes a dead letter. A pure rule over values."""

from __future__ import annotations

import dataclasses
from math import inf
from random import Random

from ensue.errors import BadMessage, UsageError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential backoff with jitter.

    attempts_max: tries in all, the first included. never: error types for which no second try helps.
    """

    attempts_max: int = 5
    first_delay_s: float = 0.1
    factor: float = 3.0
    delay_max_s: float = 60.0
    jitter: float = 0.2
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts_max < 1:
            raise UsageError(f"Retry.attempts_max is {self.attempts_max}, expected at least 1: the first try counts")
        if not 0 <= self.jitter < 1:
            raise UsageError(f"Retry.jitter is {self.jitter}, expected 0 <= jitter < 1: a share of the delay")
        if not (0 < self.first_delay_s <= self.delay_max_s < inf and 1 <= self.factor < inf):
            raise UsageError(
                "Retry wants 0 < first_delay_s <= delay_max_s and factor >= 1, found "
                f"first_delay_s={self.first_delay_s}, delay_max_s={self.delay_max_s}, factor={self.factor}"
            )

    def delay_s(self, attempts: int, error: BaseException, random: Random) -> float | None:
        """Seconds until the next try after `attempts` failed ones, or None: make it a dead letter."""
        if attempts >= self.attempts_max or isinstance(error, (BadMessage, UsageError, *self.never)):
            return None
        try:
            delay = min(self.first_delay_s * self.factor ** (attempts - 1), self.delay_max_s)
        except OverflowError:  # after some hundred tries
            delay = self.delay_max_s
        return delay * (1 + self.jitter * (2 * random.random() - 1))
