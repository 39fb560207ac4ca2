"""Looks into the customers database while all is in motion: the limit holds at every moment, not only at the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shop.demo.from_databases import over_limit

LOOK_S = 1.0


class Moments:
    """looks: how many. over: what was found, which must be nothing."""

    def __init__(self, customers_database: Path) -> None:
        self.looks = 0
        self.over: list[str] = []
        self._database = customers_database

    def look(self) -> None:
        self.over += over_limit(self._database)
        self.looks += 1

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)
