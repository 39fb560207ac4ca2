"""Waits until orders are decided. One task looks into the database of `orders` for all who wait."""

from __future__ import annotations

import asyncio
from uuid import UUID

from shop.demo.databases import Database

LOOK_S = 0.02
#: How long to leave a database alone that did not answer, in seconds.
AWAY_S = 0.2


class Decisions:
    """retried: errors of a database that may be away for a while."""

    def __init__(self, orders: Database, retried: tuple[type[Exception], ...] = ()) -> None:
        self._orders = orders
        self._retried = retried
        self._waiting: dict[UUID, asyncio.Event] = {}

    async def wait(self, order_id: UUID, limit_s: float) -> bool:
        """Return whether it was decided within `limit_s`."""
        decided = self._waiting[order_id] = asyncio.Event()
        try:
            await asyncio.wait_for(decided.wait(), limit_s)
        except TimeoutError:
            return False
        finally:
            del self._waiting[order_id]
        return True

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                with self._orders.watching() as decided:
                    while True:
                        await asyncio.sleep(LOOK_S)
                        if self._waiting:
                            for order_id in decided(self._waiting):
                                self._waiting[order_id].set()
            except self._retried:
                await asyncio.sleep(AWAY_S)
