"""Looks into the customers database while all is in motion: the limit holds at every moment, not only at the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shop.demo.databases import Database
from shop.demo.from_databases import over_limit

LOOK_S = 1.0


class Moments:
    """looks: how many. over: what was found, which must be nothing."""

    def __init__(self, customers: Database, retried: tuple[type[Exception], ...] = ()) -> None:
        """retried: errors of a database that may be away for a while."""
        self.looks = 0
        self.over: list[str] = []
        self._customers = customers
        self._retried = retried

    def look(self) -> None:
        self.over += over_limit(self._customers)
        self.looks += 1

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with suppress(*self._retried):  # nothing was seen, so nothing is counted
                await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)
