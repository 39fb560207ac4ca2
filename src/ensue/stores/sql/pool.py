"""Connections for one purpose: transactions, reads, and what begins and ends its own.

A connection that was lost while it was idle is found out by the BEGIN that opens a transaction, which has no effect
yet: then the whole idle set is dropped and a new connection tried, and a restarted server costs nobody a step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from ensue.errors import StoreConflict, StoreUnavailable
from ensue.stores.sql.connections import Connections, drop
from ensue.stores.sql.link import Link

T = TypeVar("T")


class Pool:
    """purpose: of those of `connections`. transactions: whether even single statements are put into a transaction
    (PgBouncer may send each one to another server otherwise).
    """

    def __init__(self, connections: Connections, purpose: str, *, transactions: bool = False) -> None:
        self._connections = connections
        self._purpose = purpose
        self._transactions = transactions
        self._closed = False

    async def begin(self, text: str = "", *, snapshot: bool = False) -> Link:
        """Return a connection with an open transaction; hand it back with `give`. Raises StoreUnavailable.

        snapshot: as for `Store.transaction`. text: opens another kind of transaction.
        """
        await self._place()
        try:
            while True:
                link, fresh = await self._connections.take()
                try:
                    await link.begin(text or (link.snapshot_text if snapshot else ""))
                    return link
                except BaseException as error:
                    drop(link)
                    if fresh or not isinstance(error, StoreUnavailable) or isinstance(error, StoreConflict):
                        raise
                    self._connections.drop_idle()
        except BaseException:
            self._connections.leave(self._purpose)
            raise

    def give(self, link: Link) -> None:
        """Take back a connection whose transaction has ended."""
        link.holder = None
        self._connections.put(link)
        self._connections.leave(self._purpose)

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
                link, fresh = await self._connections.take()
                link.fresh()
                try:
                    result = await work(link)
                except BaseException as error:
                    if not isinstance(error, Exception):
                        link.broken = True  # cancelled in the middle of an answer, perhaps
                    if fresh or not link.broken or not isinstance(error, StoreUnavailable):
                        ours = link.interrupted(error)
                        self._connections.put(link)
                        if ours is not None:
                            raise ours from error
                        raise
                    drop(link)
                    self._connections.drop_idle()
                    continue  # nothing was changed: once more, on a new connection
                self._connections.put(link)
                return result
        finally:
            self._connections.leave(self._purpose)

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[Link]:
        """A connection without a transaction, for what begins and ends its own."""
        await self._place()
        try:
            link, _ = await self._connections.take()
            link.fresh()
            try:
                yield link
            except BaseException as error:
                if not isinstance(error, Exception):
                    link.broken = True
                raise
            finally:
                self._connections.put(link)
        finally:
            self._connections.leave(self._purpose)

    async def close(self) -> None:
        """Wait for the transactions that are open, and let none begin. Safe to repeat."""
        self._closed = True
        await self._connections.left(self._purpose)

    async def _place(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"{self._purpose}: the store was closed")
        await self._connections.enter(self._purpose)
        if self._closed:
            self._connections.leave(self._purpose)
            raise StoreUnavailable(f"{self._purpose}: the store was closed while this waited for a connection")
