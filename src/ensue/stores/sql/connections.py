"""All connections of a store in one process, and who may have how many of them at once.

Each purpose has one connection of its own, so that none waits behind another for ever: a heartbeat not behind steps, a
query not behind the step that waits for it. The rest is for whoever needs it first.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from ensue.errors import StoreUnavailable
from ensue.stores import rules
from ensue.stores.sql.link import Link

#: How long somebody waits for a free connection before it is said so.
WAIT_S = 30.0
#: How long a server may take to say good-bye.
_GOOD_BYE_S = 2.0


class Connections:
    """At most `size` of them, made when they are needed, kept when they are free.

    connect: returns a fresh one. purposes: what they are for. place: host and database, for error texts.
    """

    def __init__(self, connect: Callable[[], Awaitable[Link]], size: int, purposes: Sequence[str], place: str) -> None:
        self._connect = connect
        self._place = place
        self._used = dict.fromkeys(purposes, 0)
        self._shared = size - len(purposes)
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._leaving: list[asyncio.Future[None]] = []
        self._free: list[Link] = []
        self._process = os.getpid()

    # --- places

    def _may_take(self, purpose: str) -> bool:
        beyond = sum(max(used - 1, 0) for used in self._used.values())
        return not self._used[purpose] or beyond < self._shared

    async def enter(self, purpose: str) -> None:
        """Wait for a place. Raises StoreUnavailable after WAIT_S."""
        if self._may_take(purpose) and not any(each == purpose for each, _ in self._waiting):
            self._used[purpose] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((purpose, turn))
        try:
            async with asyncio.timeout(WAIT_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it was given a place at the last moment
                self.leave(purpose)
            elif (purpose, turn) in self._waiting:  # else `leave` has passed over it meanwhile
                self._waiting.remove((purpose, turn))
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(
                    f"{self._place}: all {self._shared + 1} connections that {purpose} may have were in use for "
                    f"{WAIT_S:g} s. End steps sooner, open none inside another one, or raise pool_size in the "
                    "database URL"
                ) from None
            raise

    def leave(self, purpose: str) -> None:
        self._used[purpose] -= 1
        for each in list(self._waiting):
            name, turn = each
            if not turn.done() and self._may_take(name):  # one that was cancelled takes itself away
                self._waiting.remove(each)
                self._used[name] += 1
                turn.set_result(None)
        if not self._used[purpose]:
            for leaving in self._leaving:
                if not leaving.done():
                    leaving.set_result(None)

    async def left(self, purpose: str) -> None:
        """Return when nobody is there for this purpose."""
        while self._used[purpose]:
            leaving = asyncio.get_running_loop().create_future()
            self._leaving.append(leaving)
            try:
                await leaving
            finally:
                self._leaving.remove(leaving)

    # --- connections

    async def take(self) -> tuple[Link, bool]:
        """Return a connection, and whether it is fresh. Raises UsageError in a fork of the process that made them."""
        if os.getpid() != self._process:
            raise rules.forked(self._place)
        while self._free:
            link = self._free.pop()
            if link.usable:
                return link, False
            drop(link)
        return await self._connect(), True

    def put(self, link: Link) -> None:
        if link.usable:
            self._free.append(link)
        else:
            drop(link)

    def drop_idle(self) -> None:
        """One of them was lost while it was idle: the others are as old."""
        while self._free:
            drop(self._free.pop())

    async def close(self) -> None:
        while self._free:
            link = self._free.pop()
            link.detach()
            try:
                async with asyncio.timeout(_GOOD_BYE_S):
                    await link.close()
            except Exception:  # it is gone already, or does not answer: hang up
                link.terminate()


def drop(link: Link) -> None:
    link.broken = True
    if not link.foreign:  # else it is the parent's, to whom its end would come as a surprise
        link.detach()
        link.terminate()
