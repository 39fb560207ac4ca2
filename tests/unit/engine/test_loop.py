"""The loop: how long it pauses after what."""

from __future__ import annotations

import logging
from typing import Any

from ensue.engine.loop import Loop
from ensue.errors import RowConflict, StoreUnavailable


class Clock:
    """Notes the pauses that it is asked for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def monotonic(self) -> float:
        return 0.0


class Context:
    """What a loop needs of its context: a clock, and somebody to tell that it has moved on."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told = 0

    def progress(self) -> None:
        self.told += 1


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


class Failing(Loop):
    """Its database fails in each of its first turns, before or after something is done for good."""

    log = logging.getLogger("ensue.test")

    def __init__(self, context: Any, *done_before: bool) -> None:
        super().__init__("failing", context)
        self._left = list(done_before)

    async def _turn(self) -> None:
        if not self._left:
            return self.stop()
        if self._left.pop(0):
            self._advanced()
        raise StoreUnavailable("the connection was lost")


async def test_a_lost_race_costs_no_pause() -> None:
    context = Context()
    await Racing(context, {1, 3, 5}, 6).run()
    assert context.clock.pauses == []


async def test_races_lost_one_after_the_other_cost_growing_pauses() -> None:
    context = Context()
    await Racing(context, {1, 2, 3, 4}, 5).run()
    assert context.clock.pauses == [0.1, 0.2, 0.4]


async def test_a_loop_tells_after_each_beginning_that_it_has_moved_on() -> None:
    """`World.settle` waits for it: what a loop finds as it begins may be all that it has to do."""
    context = Context()
    await Racing(context, {1, 3}, 4).run()
    assert context.told == 3, "at the start, and after each of two lost races"


async def test_while_nothing_goes_the_pauses_grow() -> None:
    context = Context()
    await Failing(context, False, False, False, False).run()
    assert context.clock.pauses == [0.05, 0.1, 0.2, 0.4]


async def test_what_gets_further_in_each_turn_pauses_no_longer_than_at_first() -> None:
    """The case: a database that fails now and then, and a consumer whose batch takes many transactions."""
    context = Context()
    await Failing(context, False, False, True, True, False).run()
    assert context.clock.pauses == [0.05, 0.1, 0.05, 0.05, 0.1]
