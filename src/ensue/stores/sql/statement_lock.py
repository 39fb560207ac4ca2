"""A lock that a coroutine of one event loop holds, or a thread: whoever has it may send statements."""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class StatementLock:
    """`async with` on the event loop, which goes on while it waits; `with` in any other thread, which waits.

    It is not fair: a thread may be faster than a coroutine that was woken, which then waits again.
    """

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._in_thread = False
        #: So that nobody begins to wait between a release and its look for who waits.
        self._looking = threading.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def in_thread(self) -> bool:
        """Whether a thread has it, and not a coroutine of the event loop."""
        return self._in_thread

    async def acquire(self) -> None:
        while not self._held.acquire(blocking=False):
            with self._looking:
                if self._held.acquire(blocking=False):
                    return
                woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(woken)
            try:
                await woken
            except asyncio.CancelledError:
                with self._looking:
                    if woken in self._waiting:
                        self._waiting.remove(woken)
                    elif not self._held.locked():
                        self._wake()  # it was woken in vain: another one may be waiting
                raise

    def release(self) -> None:
        with self._looking:
            self._held.release()
            self._wake()

    def _wake(self) -> None:
        if not self._waiting:
            return
        woken = self._waiting.popleft()
        loop = woken.get_loop()
        try:
            loop.call_soon_threadsafe(_set, woken)
        except RuntimeError:
            if not loop.is_closed():  # else nobody is there any more
                raise

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __enter__(self) -> None:
        self._held.acquire()
        self._in_thread = True

    def __exit__(self, *_: object) -> None:
        self._in_thread = False
        self.release()


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
