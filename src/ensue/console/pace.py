"""How fast versions of views are built: from what one page showed to what the next one shows.

Kept in the memory of the process, so the first page after its start knows no rate yet.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from ensue.views.progress import Progress, left_s, rate

#: Samples of one version, of which the oldest and the latest make the rate; and how old the oldest may be, seconds.
_SAMPLES, _OLD_S = 10, 300.0
#: Two looks within this are one sample, seconds: the difference of such would be chance.
_APART_S: Final = 0.5
#: Versions that are remembered.
_VERSIONS_MAX = 1000


class Going(msgspec.Struct, frozen=True):
    """per_s: events read in a second. left_s: seconds until all is read at this rate; None: nobody can tell."""

    per_s: float
    left_s: float | None


class Pace:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: dict[tuple[str, int], deque[Progress]] = {}

    def look(self, view: str, version: int, done: int, total: int) -> Going | None:
        """Take a sample of a version; None: there is no earlier one to compare it with."""
        key, now = (view, version), Progress(done, total, self._clock())
        samples = self._samples.pop(key, deque(maxlen=_SAMPLES))
        if samples and samples[-1].done > done:
            samples.clear()  # it was built anew, or the log has lost its beginning
        while samples and now.at - samples[0].at > _OLD_S:
            samples.popleft()
        if not samples or now.at - samples[-1].at >= _APART_S:
            samples.append(now)
        self._samples[key] = samples
        if len(self._samples) > _VERSIONS_MAX:
            del self._samples[next(iter(self._samples))]
        if now.at - samples[0].at < _APART_S:
            return None
        per_s = rate(samples[0], now)
        return Going(per_s, left_s(now, per_s))
