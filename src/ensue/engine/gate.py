"""Who may run handlers in this process now: many lanes at once, or one message that is under suspicion, alone.

A message is blamed for its process's end only if no other handler was running, of whatever service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar
from weakref import WeakKeyDictionary


class Gate:
    """Belongs to an event loop. Whoever wants to be alone is not overtaken by those who come later."""

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Gate]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._turns = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()

    @classmethod
    def here(cls) -> Gate:
        """The one of the running loop."""
        loop = asyncio.get_running_loop()
        gate = cls._of_loops.get(loop)
        if gate is None:
            gate = cls._of_loops[loop] = cls()
        return gate

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._turns:
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._turns:
            while self._inside:
                self._empty.clear()
                await self._empty.wait()
            yield
