"""Waking those who wait for a commit: in this process at once, from other processes by what the database has for it."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Counts what happened, so that nothing is lost between looking and waiting: `looked()`, look, `wait()`."""

    def __init__(self) -> None:
        self._count = 0
        self._seen = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def looked(self) -> None:
        """What has happened by now is about to be looked at: only what comes after it ends the next wait."""
        self._seen = self._count

    def changed(self) -> None:
        """Something was committed: end every wait, or the next one."""
        self._count += 1
        for each in self._waiting:
            if not each.done():
                each.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Return True as soon as something has changed since `looked`, False after timeout_s."""
        if self._count == self._seen:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                async with asyncio.timeout(timeout_s):
                    await waiting
            except TimeoutError:
                return False
            finally:
                self._waiting.discard(waiting)
        self._seen = self._count
        return True
