"""How a loop is stopped: it finishes what it is doing, and what it waits for is cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stop:
    """`asked` is looked at between two pieces of work; waits that may be cut short go through `cuts`."""

    def __init__(self) -> None:
        self.asked = False
        self._wait: asyncio.Timeout | None = None

    def ask(self) -> None:
        """Safe to repeat."""
        if not self.asked:
            self.asked = True
            if self._wait is not None:
                self._wait.reschedule(0)

    async def cuts(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """Return what `waiting` does, or None when `ask` came before its end. One at a time."""
        if self.asked:
            waiting.close()
            return None
        try:
            # A limit that `ask` sets, rather than a task for each wait: nothing but the waiting itself is cancelled.
            async with asyncio.timeout(None) as self._wait:
                return await waiting
        except TimeoutError:
            if not self.asked:
                raise
            return None
        finally:
            self._wait = None
