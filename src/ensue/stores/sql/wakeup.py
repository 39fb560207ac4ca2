"""Waking those who wait for a commit: in this process at once, from other processes by what the database has for it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ensue.stores.sql.link import Link
from ensue.stores.sql.pool import Pool

#: How long the first and the longest pause between two looks are, where nobody tells us.
POLL_FIRST_S, POLL_LAST_S = 0.03, 0.2

LOOK = "SELECT c.last_position, EXISTS (SELECT 1 FROM ensue_outbox WHERE position IS NULL) FROM ensue_counter c"


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


class Notifier(Protocol):
    """How processes learn of each other's commits. A hint and no message: one that gets lost costs a timeout."""

    def announce(self) -> None:
        """This process has committed something others wait for. Must not wait."""

    def saw(self, last: int) -> None:
        """The counter, as a reader of the outbox has just found it."""

    async def wait(self, timeout_s: float) -> None:
        """Return soon after a commit by anyone since the last look, or after timeout_s."""

    async def close(self) -> None: ...


class Polling:
    """Looks at the counter now and then. In-process commits are known at once all the same.

    look: a query for the counter, and whether there is something unread.
    """

    def __init__(self, relay_pool: Pool, wakeup: Wakeup, look: str = LOOK) -> None:
        self._relay_pool = relay_pool
        self._text = look
        self._wakeup = wakeup
        self._seen: int | None = None

    def announce(self) -> None:
        self._wakeup.changed()

    def saw(self, last: int) -> None:
        self._seen = last

    async def wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        pause = POLL_FIRST_S
        while (left := until - loop.time()) > 0:
            if await self._wakeup.wait(min(pause, left)):
                return
            if await self._relay_pool.read(self._look):
                return
            pause = min(pause * 2, POLL_LAST_S)

    async def _look(self, link: Link) -> bool:
        [(last, unstamped)] = await link.fetch(self._text)
        seen, self._seen = self._seen, int(last)
        return bool(unstamped) or seen != self._seen

    async def close(self) -> None: ...
