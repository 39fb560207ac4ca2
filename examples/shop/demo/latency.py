"""How long from POST /orders until the order is OPEN in order_history, measured by following orders one by one."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from shop.demo.databases import Database

#: How often the view is looked at, in seconds: what is measured is too long by up to this.
LOOK_S = 0.002
FOLLOWED_MAX = 16
#: How long to leave a database alone that did not answer, in seconds.
AWAY_S = 0.2
HOW = (
    "from sending POST /orders (with --rate: from when it was due) until the order is OPEN in order_history's "
    f"database; at most {FOLLOWED_MAX} orders followed at a time, looked at every {LOOK_S * 1000:g} ms"
)


@dataclasses.dataclass(frozen=True, slots=True)
class LatencySummary:
    """In seconds. samples: orders that were followed until OPEN; rejected ones do not count."""

    samples: int
    p50_s: float | None
    p99_s: float | None
    max_s: float | None


class LatencySampler:
    """Follows up to FOLLOWED_MAX orders at a time; an order that comes when so many are on their way is not followed.

    It looks into the view's database read-only, which costs microseconds: over HTTP the measuring would slow down
    what is measured.
    """

    def __init__(self, view: Database, retried: tuple[type[Exception], ...] = ()) -> None:
        """retried: errors of a database that may be away for a while."""
        self.latencies_s: list[float] = []
        self._view = view
        self._retried = retried
        self._followed: dict[UUID, float] = {}

    def follow(self, order_id: UUID, sent_at: float) -> None:
        """sent_at: monotonic seconds."""
        if len(self._followed) < FOLLOWED_MAX:
            self._followed[order_id] = sent_at

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                with self._view.watching() as decided:
                    while True:
                        await asyncio.sleep(LOOK_S)
                        if self._followed:
                            self._look(decided)
            except self._retried:
                await asyncio.sleep(AWAY_S)

    def _look(self, decided: Callable[[Collection[UUID]], dict[UUID, str]]) -> None:
        found = decided(self._followed)
        now = time.monotonic()  # the loop's own clock counts whole milliseconds
        for order_id, status in found.items():
            sent_at = self._followed.pop(order_id)
            if status == "OPEN":
                self.latencies_s.append(now - sent_at)

    def summary(self) -> LatencySummary:
        found = sorted(self.latencies_s)
        return LatencySummary(len(found), percentile(found, 0.5), percentile(found, 0.99), found[-1] if found else None)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of the values do not exceed; None of nothing.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5), percentile([1.0, 2.0, 3.0, 4.0], 0.99), percentile([], 0.5)
    (2.0, 4.0, None)
    """
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
