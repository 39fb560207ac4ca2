"""The one write connection of a store: whose turn it is, and how a transaction begins and ends on it.

Statements run on the event loop, where they are called. However a block ends (an error, a cancelled task, a failing
commit), the connection is outside of any transaction afterwards and the turn goes to the next.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ensue.embedded.connection import BUSY_TIMEOUT_S, begin_immediate
from ensue.errors import StoreUnavailable
from ensue.stores.sqlite.commit import Committer
from ensue.stores.sqlite.failures import failure_of_database
from ensue.stores.sqlite.gate import Gate
from ensue.stores.sqlite.outbox import Tail
from ensue.stores.write_lock import LockHolder, WriteLock

if TYPE_CHECKING:
    from ensue.stores.sqlite.dialect import Engines

T = TypeVar("T")


class Writer:
    """Owns the write connection. synchronous: its level (see `embedded.connection.connect`)."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        name: str,
        synchronous: str,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.connection = connection
        self.path = path
        self.tail = Tail(connection)
        self.gate = Gate(connection, path)
        self._engines: Engines | None = None
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._turns = WriteLock(name)
        self.committer = Committer(connection)
        self._closed = False
        self._hurried = False  # the open transaction costs no fsync

    @property
    def engines(self) -> Engines:
        """SQLAlchemy over this connection, imported with the first session."""
        if self._engines is None:
            from ensue.stores.sqlite.dialect import Engines

            self._engines = Engines(self.gate)
        return self._engines

    async def begin(self, *, durable: bool = True) -> LockHolder:
        """Wait for the turn and begin. Raises StoreUnavailable when another process holds the lock too long.

        durable: False for what may be lost in a power cut (never torn): it costs no fsync.
        """
        self.gate.check_process()
        turn = await self._turns.acquire()
        try:
            if self._closed:
                raise StoreUnavailable(f"{self.path}: the store was closed while this transaction waited for its turn")
            if not durable and self._synchronous in ("FULL", "EXTRA"):
                self.connection.execute("PRAGMA synchronous = NORMAL")
                self._hurried = True
            await begin_immediate(self.connection, timeout_s=self._busy_timeout_s)
        except BaseException:
            self.release(turn)
            raise
        return turn

    async def commit(self) -> asyncio.CancelledError | None:
        """Commit what was begun; the turn stays. See `Committer.commit`."""
        self.gate.check_process()
        if self.tail.touched:
            self.tail.write_heads()
        return await self.committer.commit()

    def rollback(self) -> None:
        """Undo what was begun, if SQLite has not done so by itself; the turn stays."""
        self.tail.forget()
        if not self._closed and not self.gate.foreign and self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def release(self, turn: LockHolder) -> None:
        if self._hurried:
            self._hurried = False
            if not self._closed:
                self.connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        self._turns.release(turn)

    async def run(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Call `work` in a transaction of its own and return what it returns. durable: see `begin`."""
        turn = await self.begin(durable=durable)
        try:
            result = work(self.connection)
            cancelled = await self.commit()
        except BaseException as error:
            self.rollback()
            ours = failure_of_database(error, self.path)
            if ours is not None:
                raise ours from error
            raise
        finally:
            self.release(turn)
        if cancelled is not None:
            raise cancelled
        return result

    async def close(self) -> None:
        """Wait for the transaction that is open, if one is, then close. Safe to repeat."""
        turn = await self._turns.acquire()
        try:
            self._closed = True
            self.committer.close()
            self.connection.close()
        finally:
            self._turns.release(turn)
