"""Several sides of one comparison, measured in turn, A B A B …: a slow minute of the machine hits all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

from benchmarks.figures import Figure, Goal


class Sample(NamedTuple):
    """One side's work in one round. cpu_s: user and system time of this process, all threads."""

    events: int
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.events / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU microseconds an event."""
        return self.cpu_s / self.events * 1e6


class Stopwatch:
    """Begins when it is made; both sides are timed by it alone."""

    def __init__(self) -> None:
        gc.collect()  # nobody pays for the garbage of whoever ran before
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self, events: int) -> Sample:
        return Sample(events, time.perf_counter() - self._wall, time.process_time() - self._cpu)


class Rounds:
    """The samples of all sides, round by round."""

    def __init__(self, samples: Mapping[str, list[Sample]]) -> None:
        self._samples = samples

    def rate(self, side: str, name: str, *, unit: str = "events/s", goal: Goal | None = None) -> Figure:
        rates = [sample.rate for sample in self._samples[side]]
        return Figure(name=name, value=median(rates), unit=unit, goal=goal, low=min(rates), high=max(rates))

    def ratio(self, side: str, to: str, name: str, *, goal: Goal | None = None) -> Figure:
        """Median over the rounds of the ratio within each round: both ran right after one another."""
        ratios = [one.rate / other.rate for one, other in zip(self._samples[side], self._samples[to], strict=True)]
        return Figure(name=name, value=median(ratios), unit="", goal=goal, low=min(ratios), high=max(ratios))

    def cpu_us(self, side: str) -> float:
        return median(sample.cpu_us for sample in self._samples[side])

    def cpu_over(self, side: str, to: str, name: str, *, goal: Goal | None = None) -> Figure:
        """CPU microseconds an event that `side` takes more than `to`."""
        more = [one.cpu_us - other.cpu_us for one, other in zip(self._samples[side], self._samples[to], strict=True)]
        return Figure(name=name, value=median(more), unit="µs", goal=goal, low=min(more), high=max(more))

    def cpu_share(self, side: str, to: str, name: str, *, goal: Goal | None = None) -> Figure:
        """How much more CPU time an event takes than on the other side, in percent of that."""
        more = [
            100 * (one.cpu_us / other.cpu_us - 1)
            for one, other in zip(self._samples[side], self._samples[to], strict=True)
        ]
        return Figure(name=name, value=median(more), unit="%", goal=goal, low=min(more), high=max(more))


def alternate(sides: Mapping[str, Callable[[], Sample]], rounds: int) -> Rounds:
    """Run each side once a round: in the given order, and in the next round the other way round, so that none of them
    always comes after the one that leaves the machine warm, or the memory full.

    Where there are several rounds, one more goes before them and does not count: imports, caches, a file system that
    wakes up.
    """
    samples: dict[str, list[Sample]] = {side: [] for side in sides}
    for number in range(-1 if rounds > 1 else 0, rounds):
        for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
            sample = sides[side]()
            if number >= 0:
                samples[side].append(sample)
    return Rounds(samples)
