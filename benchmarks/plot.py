"""Bars of text: a figure that grows, as a terminal and a page show it."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.figures import number

_WIDTH = 50


def bars(points: Mapping[int, float], of: str, unit: str) -> str:
    """A line for each point, as long as its value.

    >>> print(bars({1: 5.0, 100: 50.0}, "entries", "ms"))
    entries
          1 |##### 5 ms
        100 |################################################## 50 ms
    """
    most = max(points.values())
    lines = [
        f"{name:>7,} |{'#' * max(1, round(value / most * _WIDTH))} {number(value)} {unit}"
        for name, value in points.items()
    ]
    return "\n".join([f"{of:>7}", *lines])
