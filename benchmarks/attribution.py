"""Where the CPU time of an event goes, by cProfile: each function's own time, put down to a part of the house.

cProfile costs something at each call: Python functions, and C functions that are as short as msgspec's, look some three
times slower than they are, while SQLite's few long calls stay what they are. So SQLite's time is taken as it was seen,
and what is left of an undisturbed run is divided among the other parts by their shares.
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OTHER = "other Python"
_SQLITE = "SQLite"
#: The first mark that a function's file or name contains decides.
_PARTS = (
    (_SQLITE, "'sqlite3."),
    ("msgspec", "'msgspec"),
    ("engine", "ensue/engine/"),
    ("stores", "ensue/stores/"),
    ("brokers", "ensue/brokers/"),
    ("wake-up and connections", "ensue/embedded/"),
    ("rules of order", "ensue/plan.py"),
    ("rules of order", "ensue/chain.py"),
    ("step, event, codec, repository", "ensue/"),
    ("handler", "benchmarks/"),
    ("asyncio", "asyncio/"),
    ("asyncio", "selectors.py"),
    ("asyncio", "contextlib.py"),
)

Function = tuple[str, int, str]


def attribute(work: Callable[[], object]) -> dict[str, float]:
    """Run `work` twice, once under cProfile; return CPU seconds of this thread by part, the largest first.

    What a part has Python itself do for it (dicts, lists, strings) counts for that part.
    """
    began = time.thread_time()
    work()
    undisturbed = time.thread_time() - began
    profile = cProfile.Profile(time.thread_time)
    profile.runcall(work)
    seen = _by_part(pstats.Stats(profile).stats)  # type: ignore[attr-defined]  # not in its stub
    sqlite = seen[_SQLITE]
    real = (undisturbed - sqlite) / (seen.total() - sqlite)
    times = Counter({part: own if part == _SQLITE else own * real for part, own in seen.items()})
    return dict(times.most_common())


def _by_part(stats: dict[Function, Any]) -> Counter[str]:
    times: Counter[str] = Counter()
    for function, (_, _, own, _, callers) in stats.items():
        part = _part(function)
        if part == _OTHER and function[0] == "~" and callers:
            for caller, (_, _, own_for_caller, _) in callers.items():
                times[_part(caller)] += own_for_caller
        else:
            times[part] += own
    return times


def _part(function: Function) -> str:
    file, _, name = function
    place = f"{Path(file).as_posix()} {name}"
    return next((part for part, mark in _PARTS if mark in place), _OTHER)
