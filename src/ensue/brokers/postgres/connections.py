"""A process's connections to the log: statements run, errors translated, nothing half-used returned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from ensue.brokers.postgres import sql
from ensue.brokers.postgres.address import Address
from ensue.brokers.postgres.failures import FAILURES, translated
from ensue.errors import BrokerUnavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

#: How long a close waits for statements under way, in seconds.
_CLOSE_S = 5.0
#: Every statement of the log has its index. Left alone, a planner that knows no statistics yet (a backlog that is
#: younger than the last ANALYZE) takes all that lies behind an offset, and sorts it, for each batch of 500.
_BY_INDEX = {"enable_seqscan": "off", "enable_bitmapscan": "off"}


class Connections:
    """A small pool. One statement is one transaction and, without a pooler in between, one round trip.

    A statement that is cancelled is cancelled in the server as well; its transaction may have been committed.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def is_open(self) -> bool:
        return self._pool is not None

    async def open(self) -> None:
        """Make the pool; connections come with their first use."""
        if self._pool is not None:
            return
        address = self._address
        self._pool = await asyncpg.create_pool(
            address.dsn, min_size=0, max_size=address.pool_size, reset=_nothing_to_reset, **self._options()
        )

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def single(self) -> asyncpg.Connection[asyncpg.Record]:
        """Return a connection outside the pool, the caller's to close. Raises one of FAILURES."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._address.dsn, **self._options())
        return connection

    def _options(self) -> dict[str, Any]:
        address = self._address
        options: dict[str, Any] = {"timeout": address.timeout_s, "command_timeout": address.timeout_s}
        if address.pgbouncer:
            options["statement_cache_size"] = 0
        else:
            options["server_settings"] = {"application_name": "ensue broker", "jit": "off", **_BY_INDEX}
        return options

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run one statement, return its rows. Raises BrokerUnavailable, or UsageError for what cannot be stored."""
        rows: list[asyncpg.Record] = await self._run("fetch", statement, arguments)
        return rows

    async def execute(self, statement: str, *arguments: Any) -> str:
        """As `fetch`; return the command's status, e.g. `DELETE 3`."""
        status: str = await self._run("execute", statement, arguments)
        return status

    async def _run(self, method: str, statement: str, arguments: Sequence[Any]) -> Any:
        try:
            async with self._connection() as connection:
                if not self._address.pgbouncer:
                    return await getattr(connection, method)(statement, *arguments)
                # A pooler gives us a server for a transaction only, and the driver prepares, then executes.
                async with connection.transaction():
                    await connection.execute(
                        "; ".join(f"SET LOCAL {name} = {value}" for name, value in _BY_INDEX.items())
                    )
                    return await getattr(connection, method)(statement, *arguments)
        except FAILURES as error:
            raise translated(error, self._address.place) from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection for one use. A statement that was cancelled ends before it is given back, or it is closed."""
        pool, timeout_s = self._opened(), self._address.timeout_s
        async with asyncio.timeout(timeout_s):  # the driver's own timeout makes a task of each call
            connection = await pool.acquire()
        try:
            yield connection
        except TimeoutError:
            connection.terminate()  # it may be a dead line: nobody should wait on it again
            raise
        finally:
            await pool.release(connection, timeout=timeout_s)

    @asynccontextmanager
    async def locked(self, name: str, *, opening: bool = False) -> AsyncIterator[Connection]:
        """A transaction that only one process at a time has for this name: for making tables and topics."""
        try:
            async with self._connection() as connection, connection.transaction():
                await connection.execute(sql.LOCK, name)
                yield connection
        except FAILURES as error:
            raise translated(error, self._address.place, opening=opening) from error

    def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            raise BrokerUnavailable(f"the broker {self._address.place} is not open: call open() first")
        return self._pool


async def _nothing_to_reset(connection: object) -> None:
    """Our statements leave no state in a session, so a round trip per use is saved."""
