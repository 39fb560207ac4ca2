"""What a benchmark hands back: figures, each perhaps with a goal, and the words that a reader needs to judge them."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: at least, or at most, this."""

    bound: Literal["at least", "at most"]
    value: float

    def met(self, value: float) -> bool:
        return value >= self.value if self.bound == "at least" else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.bound == 'at least' else '≤'} {number(self.value)}"


def at_least(value: float) -> Goal:
    return Goal("at least", value)


def at_most(value: float) -> Goal:
    return Goal("at most", value)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number. unit: empty for a ratio. low, high: of the rounds, where there were several. about: what it is, when
    the name is too short to say."""

    name: str
    value: float
    unit: str
    goal: Goal | None = None
    low: float | None = None
    high: float | None = None
    about: str = ""

    @property
    def met(self) -> bool | None:
        """None: it has no goal."""
        return None if self.goal is None else self.goal.met(self.value)

    @property
    def spread(self) -> str:
        """`low to high`, empty for a single measurement."""
        if self.low is None or self.high is None:
            return ""
        return f"{number(self.low)} to {number(self.high)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A benchmark's result; how it measures is told in the docstring of its module.

    question: what it answers. scale: how much was measured in this run. bad: the result that we would call bad.
    bound: what bounds the figures. plot: lines of text that show how one of them grows.
    """

    name: str
    question: str
    scale: str
    bad: str
    bound: str
    figures: tuple[Figure, ...]
    plot: str = ""

    @property
    def missed(self) -> tuple[Figure, ...]:
        return tuple(figure for figure in self.figures if figure.met is False)


def number(value: float) -> str:
    """Three figures that count, with thousands set apart: 12,300 and 0.482."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
