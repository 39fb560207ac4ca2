"""Connections that wait for work. Each purpose has a pool of its own, so that none waits behind another.

A connection that was lost while it was idle is found out by the BEGIN that opens a transaction, which has no effect
yet: then the whole idle set is dropped and a new connection tried, and a restarted server costs nobody a step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from ensue.errors import StoreConflict, StoreUnavailable
from ensue.stores.sql.link import Link

T = TypeVar("T")

#: How long a transaction waits for a free connection before it says so.
WAIT_S = 30.0


class Pool:
    """At most `size` connections, made when they are needed, kept when they are free.

    purpose: for the error text. connect: returns a fresh connection. transactions: whether even single statements are
    put into a transaction (PgBouncer may send each one to another server otherwise).
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Link]], size: int, purpose: str, *, transactions: bool = False
    ) -> None:
        self._connect = connect
        self._size = size
        self._purpose = purpose
        self._transactions = transactions
        self._places = asyncio.Semaphore(size)
        self._free: list[Link] = []
        self._closed = False

    async def begin(self, text: str = "") -> Link:
        """Return a connection with an open transaction; hand it back with `give`. Raises StoreUnavailable."""
        await self._place()
        try:
            while True:
                link, fresh = await self._take()
                try:
                    await link.begin(text)
                    return link
                except BaseException as error:
                    self._drop(link)
                    if fresh or not isinstance(error, StoreUnavailable) or isinstance(error, StoreConflict):
                        raise
                    while self._free:  # what was idle with it is as old
                        self._drop(self._free.pop())
        except BaseException:
            self._places.release()
            raise

    def give(self, link: Link) -> None:
        """Take back a connection whose transaction has ended."""
        link.holder = None
        self._put(link)
        self._places.release()

    async def run(self, work: Callable[[Link], Awaitable[T]], text: str = "") -> T:
        """Call `work` in a transaction of its own and return what it returns."""
        link = await self.begin(text)
        try:
            try:
                result = await work(link)
                if link.doomed is not None:
                    raise link.doomed
                cancelled = await link.commit_to_end()
            except BaseException as error:
                stop = await link.rollback_to_end()
                if stop is not None:
                    raise stop from error
                ours = link.interrupted(error)
                if ours is not None:
                    raise ours from error
                raise
        finally:
            self.give(link)
        if cancelled is not None:
            raise cancelled
        return result

    async def read(self, work: Callable[[Link], Awaitable[T]]) -> T:
        """Call `work`, which only reads, each of its statements on the state that is committed then."""
        if self._transactions:
            return await self.run(work)
        await self._place()
        try:
            while True:
                link, fresh = await self._take()
                link.fresh()
                try:
                    result = await work(link)
                except BaseException as error:
                    if not isinstance(error, Exception):
                        link.broken = True  # cancelled in the middle of an answer, perhaps
                    if fresh or not link.broken or not isinstance(error, StoreUnavailable):
                        ours = link.interrupted(error)
                        self._put(link)
                        if ours is not None:
                            raise ours from error
                        raise
                    self._drop(link)
                    while self._free:
                        self._drop(self._free.pop())
                    continue  # nothing was changed: once more, on a new connection
                self._put(link)
                return result
        finally:
            self._places.release()

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[Link]:
        """A connection without a transaction, for what begins and ends its own."""
        await self._place()
        try:
            link, _ = await self._take()
            link.fresh()
            try:
                yield link
            except BaseException as error:
                if not isinstance(error, Exception):
                    link.broken = True
                raise
            finally:
                self._put(link)
        finally:
            self._places.release()

    async def close(self) -> None:
        """Wait for the transactions that are open, then close. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self._size):
            await self._places.acquire()
        while self._free:
            await _closed(self._free.pop())
        for _ in range(self._size):
            self._places.release()

    async def _place(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"{self._purpose}: the store was closed")
        if self._places.locked():
            try:
                async with asyncio.timeout(WAIT_S):
                    await self._places.acquire()
            except TimeoutError:
                raise StoreUnavailable(
                    f"{self._purpose}: all {self._size} connections have been in use for {WAIT_S:g} s. End steps "
                    "sooner, open none inside another one, or raise pool_size in the database URL"
                ) from None
        else:
            await self._places.acquire()
        if self._closed:
            self._places.release()
            raise StoreUnavailable(f"{self._purpose}: the store was closed while this waited for a connection")

    async def _take(self) -> tuple[Link, bool]:
        while self._free:
            link = self._free.pop()
            if link.usable:
                return link, False
            self._drop(link)
        return await self._connect(), True

    def _put(self, link: Link) -> None:
        if link.usable:
            self._free.append(link)  # also when closing: `close` waits for this place, and then closes it
        else:
            self._drop(link)

    def _drop(self, link: Link) -> None:
        link.broken = True
        link.detach()
        link.terminate()


async def _closed(link: Link) -> None:
    link.detach()
    try:
        async with asyncio.timeout(2.0):
            await link.close()
    except Exception:  # it is gone already, or does not answer: hang up
        link.terminate()
