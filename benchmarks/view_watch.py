"""When an order is first to be seen as OPEN in the view, by looking into its database every millisecond.

A look is `PRAGMA data_version` on a read-only connection, microseconds; only when that says that somebody committed,
the orders that are waited for are looked up. So a figure is too long by up to a millisecond, and never too short.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from uuid import UUID

LOOK_S = 0.001


class ViewWatch:
    """open_at: order -> monotonic seconds of the look that saw it OPEN."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        self._version = -1
        self._awaited: set[str] = set()
        self._open_at: dict[str, float] = {}

    def await_order(self, order: UUID) -> None:
        self._awaited.add(order.hex)

    def open_at(self, order: UUID) -> float:
        return self._open_at[order.hex]

    async def watch(self) -> None:
        """Look until every order that is awaited is OPEN."""
        while self._awaited:
            await asyncio.sleep(LOOK_S)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                self._look()

    def _look(self) -> None:
        marks = ",".join("?" * len(self._awaited))
        query = f"SELECT order_id FROM history_orders WHERE status = 'OPEN' AND order_id IN ({marks})"
        found = self._connection.execute(query, list(self._awaited)).fetchall()
        now = time.monotonic()
        for (order,) in found:
            self._awaited.discard(order)
            self._open_at[order] = now

    def close(self) -> None:
        self._connection.close()
