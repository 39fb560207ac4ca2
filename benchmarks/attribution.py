"""Where the time of an event goes, by cProfile: each function's own time, put down to a part of the house.

cProfile makes Python functions look slower than they are and leaves C as it is, so the shares lean towards Ensue's own
code. They say where to look; the microseconds of `overhead` come from runs without it.
"""

from __future__ import annotations

import cProfile
import pstats
from collections import Counter
from collections.abc import Callable
from pathlib import Path

#: The first that a function's file or name contains decides.
_PARTS = (
    ("SQLite: statements", "'sqlite3."),
    ("msgspec: encode and decode", "msgspec"),
    ("engine", "ensue/engine/"),
    ("stores", "ensue/stores/"),
    ("brokers", "ensue/brokers/"),
    ("embedded", "ensue/embedded/"),
    ("plan and chain", "ensue/plan.py"),
    ("plan and chain", "ensue/chain.py"),
    ("step and codec", "ensue/"),
    ("handler", "benchmarks/"),
    ("asyncio", "asyncio/"),
    ("asyncio", "selectors.py"),
    ("asyncio", "select."),
)


def attribute(work: Callable[[], object]) -> dict[str, float]:
    """Run `work` under cProfile; return each part's share of the time, the largest first. What waits is left out."""
    profile = cProfile.Profile()
    profile.runcall(work)
    times: Counter[str] = Counter()
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "poll" in name and "select" in name:
            continue  # waiting
        times[_part(file, name)] += own
    whole = sum(times.values())
    return {part: own / whole for part, own in times.most_common()}


def _part(file: str, name: str) -> str:
    place = Path(file).as_posix() + " " + name
    return next((part for part, mark in _PARTS if mark in place), "other Python")
