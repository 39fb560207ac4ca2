"""SQLAlchemy on the store's own sqlite3 connection, with no thread in between.

aiosqlite takes each call to a thread and back, which costs more than the statement. Here SQLAlchemy's asyncio layer
runs on the raw connection where it lives: nothing ever waits, so nothing needs to be awaited. The step owns the
transaction: what SQLAlchemy means by begin, commit, rollback and close does nothing. Savepoints work.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

# SQLAlchemy 2.0 has `await_only` alone, 2.1 has `await_` as well.
from sqlalchemy.util.concurrency import await_only, in_greenlet

from ensue.errors import StoreLost
from ensue.stores import rules
from ensue.stores.sqlite.failures import raise_unavailable
from ensue.stores.sqlite.gate import Gate
from ensue.stores.step_dialect import StepDialect

T = TypeVar("T")


class _Cursor(sqlite3.Cursor):
    async def _async_soft_close(self) -> None:
        """SQLAlchemy awaits this of an asyncio driver's cursor after `execute`; here there is nothing to wait for."""


class _ThreadsCursor(sqlite3.Cursor):
    """Reading may take as long as a statement: the gate has to know of it."""

    gate: Gate

    def fetchone(self) -> Any:
        with self.gate.lock:
            return super().fetchone()

    def fetchmany(self, *size: Any) -> list[Any]:
        with self.gate.lock:
            return super().fetchmany(*size)

    def fetchall(self) -> list[Any]:
        with self.gate.lock:
            return super().fetchall()

    def close(self) -> None:
        with self.gate.lock:
            super().close()


class _ExecutionContext(SQLiteExecutionContext):
    def create_default_cursor(self) -> Any:
        return self._dbapi_connection.cursor(_Cursor)

    def create_server_side_cursor(self) -> Any:
        return self._dbapi_connection.cursor(_Cursor)  # for `session.stream`: an sqlite3 cursor streams by itself


class _ThreadsContext(_ExecutionContext):
    def create_default_cursor(self) -> Any:
        gate = cast("EnsueSyncDialect", self.dialect).gate
        if gate is None:  # SQLAlchemy itself, getting to know the database
            return super().create_default_cursor()
        cursor = self._dbapi_connection.cursor(_ThreadsCursor)
        cast(_ThreadsCursor, cursor).gate = gate
        return cursor

    create_server_side_cursor = create_default_cursor


class EnsueDialect(StepDialect, SQLiteDialect_pysqlite):
    """For sessions on the event loop. `gate` is set by `Engines` before the first statement."""

    driver = "ensue"
    is_async = True
    supports_statement_cache = True
    supports_server_side_cursors = True
    execution_ctx_cls = _ExecutionContext
    isolation = "a step's transaction is serializable, nothing else is to be had"
    gate: Gate | None = None

    def get_driver_connection(self, connection: Any) -> Any:
        return connection

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        gate = self.gate
        # Else all is rolled back, or committed, already; SQLite does so by itself on a full disk.
        if gate is not None and gate.lets(connection) and gate.connection.in_transaction:
            super().do_rollback_to_savepoint(connection, name)  # type: ignore[no-untyped-call]

    def _run(self, call: Any, arguments: tuple[Any, ...], context: Any) -> None:
        gate = self.gate
        if gate is None:  # SQLAlchemy itself, getting to know the database
            call(*arguments)
            return
        if in_greenlet():
            await_only(_nothing())  # the methods of an AsyncConnection insist on it
        with gate.lock:
            gate.check(None if context is None else context.root_connection)
            try:
                gate.run(call, arguments)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
                    raise rules.writes_nothing() from error
                raise_unavailable(error, gate.path)
                raise
            except sqlite3.Error as error:
                raise_unavailable(error, gate.path)
                raise
            except MemoryError as error:  # what sqlite3 makes of SQLITE_NOMEM
                raise StoreLost(f"{gate.path}: out of memory") from error


class EnsueSyncDialect(EnsueDialect):
    """The same for a plain Session, in the thread of a plain `def` handler."""

    driver = "ensue_sync"
    is_async = False
    supports_statement_cache = True
    execution_ctx_cls = _ThreadsContext


registry.register("sqlite.ensue", __name__, "EnsueDialect")
registry.register("sqlite.ensue_sync", __name__, "EnsueSyncDialect")


async def _nothing() -> None: ...


class Engines:
    """SQLAlchemy's engines over one sqlite3 connection, made when first asked for."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._asynchronous: AsyncEngine | None = None
        self._plain: Engine | None = None

    def connect(self) -> AsyncConnection:
        """Return a connection for one transaction."""
        engine = self._asynchronous
        if engine is None:
            engine = create_async_engine("sqlite+ensue://", **self._options())
            _at_once(_first_connection(engine))
            engine.dialect.gate = self._gate  # type: ignore[attr-defined]
            self._asynchronous = engine
        return AsyncConnection(engine, engine.sync_engine.connect())

    def connect_plain(self) -> Connection:
        """As `connect`, for use in a thread."""
        engine = self._plain
        if engine is None:
            engine = create_engine("sqlite+ensue_sync://", **self._options())
            engine.connect().close()
            engine.dialect.gate = self._gate  # type: ignore[attr-defined]
            self._plain = engine
        return engine.connect()

    def _options(self) -> dict[str, Any]:
        raw = self._gate.connection
        return {"creator": lambda: raw, "poolclass": StaticPool, "pool_reset_on_return": None}


async def _first_connection(engine: AsyncEngine) -> None:
    """SQLAlchemy asks the database what it can do; it wants to be awaited for that, once."""
    connection = await engine.connect()
    assert connection.sync_connection is not None
    connection.sync_connection.close()


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, where nothing can be awaited."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise AssertionError("SQLAlchemy waited for something on a connection that never waits")
