"""How long from POST /orders until the order is OPEN in order_history, measured by following orders one by one."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

#: How often the view is looked at, in seconds: what is measured is too long by up to this.
LOOK_S = 0.002
FOLLOWED_MAX = 16
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
    what is measured. `PRAGMA data_version` says whether anything changed since the last look.
    """

    def __init__(self, view_database: Path) -> None:
        self.latencies_s: list[float] = []
        self._database = view_database
        self._followed: dict[str, float] = {}

    def follow(self, order_id: UUID, sent_at: float) -> None:
        """sent_at: monotonic seconds."""
        if len(self._followed) < FOLLOWED_MAX:
            self._followed[order_id.hex] = sent_at

    async def run(self) -> None:
        """Look until cancelled."""
        uri = f"{self._database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.1)) as database:
            seen = -1
            while True:
                await asyncio.sleep(LOOK_S)
                if self._followed:
                    (version,) = database.execute("PRAGMA data_version").fetchone()
                    if version != seen:
                        self._look(database)
                        seen = version

    def _look(self, database: sqlite3.Connection) -> None:
        now = time.monotonic()  # the loop's own clock counts whole milliseconds
        marks = ",".join("?" * len(self._followed))
        query = f"SELECT order_id, status FROM history_orders WHERE order_id IN ({marks}) AND status != 'NEW'"
        for key, status in database.execute(query, list(self._followed)).fetchall():
            sent_at = self._followed.pop(key)
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
