"""How long the handlers of one transaction may run before it takes no more messages."""

from __future__ import annotations

from collections.abc import Callable


class Budget:
    """Time of handlers alone: what waits for a connection or for the entities' rows does not count, or a busy database
    would make every transaction small, and so be busier still. Whoever runs handlers takes off what they took.

    left_s: seconds. now: the clock.
    """

    __slots__ = ("left_s", "now")

    def __init__(self, left_s: float = float("inf"), now: Callable[[], float] = lambda: 0.0) -> None:
        self.left_s = left_s
        self.now = now
