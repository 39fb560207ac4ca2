"""The loop: how long it pauses after what."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from ensue.engine.loop import Loop
from ensue.errors import RowConflict


class Clock:
    """Notes the pauses that it is asked for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


class Racing(Loop):
    """Loses a race in these turns."""

    log = logging.getLogger("ensue.test")
    at_once = (RowConflict,)

    def __init__(self, context: Any, lost: set[int], turns: int) -> None:
        super().__init__("racing", context)
        self._lost = lost
        self._left = turns
        self._turns = 0

    async def _turn(self) -> None:
        self._turns += 1
        if self._turns == self._left:
            self.stop()
        if self._turns in self._lost:
            raise RowConflict("another one was quicker")


async def test_a_lost_race_costs_no_pause() -> None:
    clock: Any = Clock()
    await Racing(SimpleNamespace(clock=clock), {1, 3, 5}, 6).run()
    assert clock.pauses == []


async def test_races_lost_one_after_the_other_cost_growing_pauses() -> None:
    clock: Any = Clock()
    await Racing(SimpleNamespace(clock=clock), {1, 2, 3, 4}, 5).run()
    assert clock.pauses == [0.1, 0.2, 0.4]
