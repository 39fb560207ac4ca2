"""Reading without a turn: WAL readers see the last commit and wait for nobody.

One connection serves the engine's own short queries, which run to their end where they are called. Sessions that
users hold across awaits get one each, from a small pool.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from ensue.embedded.connection import connect, is_busy, retry_while_busy, translated
from ensue.errors import StoreUnavailable, UsageError
from ensue.stores.sqlite.failures import failure_of_database
from ensue.stores.sqlite.gate import Gate

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ensue.stores.sessions import StepSession
    from ensue.stores.sqlite.dialect import Engines

T = TypeVar("T")

#: Sessions of `reading()` at once; one more waits for a place.
SESSIONS_MAX = 8
PLACE_WAIT_S = 10.0


def _connect(path: str) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


class Snapshots:
    """The engine's queries, each on one consistent state."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _connect(path)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` on a snapshot of what is committed. Raises StoreUnavailable."""
        try:
            return self._read(work)
        except sqlite3.Error as error:
            if is_busy(error):
                return await retry_while_busy(lambda: self._read(work), self._path)
            raise translated(error, self._path) from error

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            if connection.in_transaction:
                connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class Readers:
    """The pool behind `reading()`. Connections are made when needed and kept."""

    def __init__(self, path: str, place_wait_s: float = PLACE_WAIT_S) -> None:
        self._path = path
        self._place_wait_s = place_wait_s
        self._places = asyncio.Semaphore(SESSIONS_MAX)
        self._idle: list[tuple[Gate, Engines]] = []
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session on a snapshot of what is committed when it first asks; the snapshot ends with the block."""
        from ensue.stores.sessions import ReadingSession, step_session

        async with self._place():
            gate, engines = self._take()
            raw = gate.connection
            try:
                raw.execute("BEGIN")
                gate.fresh()
                connection = engines.connect()
                gate.open(connection.sync_connection)
                session = step_session(connection, ReadingSession)
                try:
                    yield session
                    cast(ReadingSession, session.sync_session).check_unchanged()
                finally:
                    gate.close()
                    cast("StepSession", session.sync_session).end()
                    if connection.sync_connection is not None:
                        connection.sync_connection.close()
            except BaseException as error:
                ours = failure_of_database(error, self._path)
                if ours is not None:
                    raise ours from error
                raise
            finally:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
                if self._closed:
                    raw.close()
                else:
                    self._idle.append((gate, engines))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the places. Raises StoreUnavailable after place_wait_s: those who read may wait for a step that
        itself waits here, and nobody would go on."""
        try:
            async with asyncio.timeout(self._place_wait_s):
                await self._places.acquire()
        except TimeoutError:
            raise StoreUnavailable(
                f"{self._path}: {SESSIONS_MAX} sessions for queries have been open for {self._place_wait_s} s. "
                "End a query before a step is opened, and open none inside a step: its own session reads"
            ) from None
        try:
            yield
        finally:
            self._places.release()

    def _take(self) -> tuple[Gate, Engines]:
        if self._closed:
            raise UsageError("a query on a store that is closed")
        if self._idle:
            return self._idle.pop()
        from ensue.stores.sqlite.dialect import Engines

        gate = Gate(_connect(self._path), self._path)
        return gate, Engines(gate)

    def close(self) -> None:
        """Close what is idle; a session that is still open closes its connection when it ends."""
        self._closed = True
        while self._idle:
            self._idle.pop()[0].connection.close()
