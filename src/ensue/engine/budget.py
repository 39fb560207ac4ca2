"""How long the handlers of one transaction may run before it takes no more messages."""

from __future__ import annotations

from collections.abc import Callable

NEVER = float("inf")


class Budget:
    """Time of handlers alone: what waits for a connection or for the entities' rows does not count, or a busy database
    would make every transaction small, and so be busier still.

    left_s: seconds. monotonic: the clock.

    >>> now = iter([0.0, 3.0, 10.0, 10.5]).__next__
    >>> budget = Budget(4.0, now)
    >>> with budget: pass
    >>> with budget: budget.spent
    False
    """

    __slots__ = ("_began", "_monotonic", "left_s")

    def __init__(self, left_s: float = NEVER, monotonic: Callable[[], float] = lambda: 0.0) -> None:
        self.left_s = left_s
        self._monotonic = monotonic
        self._began = NEVER

    def __enter__(self) -> None:
        self._began = self._monotonic()

    def __exit__(self, *error: object) -> None:
        self.left_s -= self._monotonic() - self._began
        self._began = NEVER

    @property
    def spent(self) -> bool:
        """Whether nothing is left; asked within a `with` block or after it."""
        if self._began == NEVER:
            return self.left_s <= 0
        return self._monotonic() - self._began >= self.left_s
