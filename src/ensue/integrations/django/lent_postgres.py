"""Django's cursors on a connection of a PostgreSQL store, which is psycopg's async one and lives on the event loop.

A statement is bound as Django's own cursors bind it (on this side, with Django's types), sent on the event loop, and
its rows are all read there; what is left for the handler's thread is to take them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, AsyncCopy
from psycopg.adapt import AdaptersMap
from sqlalchemy import Connection
from sqlalchemy.util.concurrency import await_only

from ensue.errors import UsageError
from ensue.integrations.django.lent_copy import LentCopy
from ensue.integrations.django.psycopg_types import adapters_of

#: Names of one zone.
_UTC = frozenset({"UTC", "Etc/UTC", "GMT"})


def raw_connection(bound: Connection, wrapper: Any) -> LentConnection:
    raw: Any = bound.connection.driver_connection
    if not isinstance(raw, AsyncConnection):
        raise UsageError("handlers that use Django's ORM need the driver psycopg: postgresql+psycopg://")
    zone, wanted = raw.info.parameter_status("TimeZone"), wrapper.timezone_name
    if zone != wanted and not {zone, wanted} <= _UTC:  # behind PgBouncer it cannot be said in the URL
        raise UsageError(
            f"the server tells times in the zone {zone}, and Django takes them for {wanted}: ALTER ROLE ... SET "
            f"TimeZone = '{wanted}'",
            expected=wanted,
            found=zone,
        )
    if wrapper.adapters is None:
        wrapper.adapters = AdaptersMap(adapters_of(wrapper))
    return LentConnection(raw, bound, wrapper.adapters)


def new_cursor(wrapper: Any, bound: Connection) -> LentCursor:
    return LentCursor(wrapper.connection)


class _Cursor(AsyncClientCursor[Any]):
    def __init__(self, connection: AsyncConnection[Any], adapters: AdaptersMap) -> None:
        super().__init__(connection)
        self._adapters = AdaptersMap(adapters)  # Django's types, for its own statements alone


#: What Django and its backends ask psycopg's connection about itself.
_ASKED = frozenset({"broken", "closed", "encoding", "info", "pgconn", "row_factory"})


class LentConnection:
    """What Django, and receivers of `connection_created`, ask of a connection of psycopg's.

    adapters: types that are registered here are known to Django's statements in this step, and not to the store's own.
    """

    def __init__(self, raw: AsyncConnection[Any], bound: Connection, adapters: AdaptersMap) -> None:
        self.connection = raw  # psycopg's name for it in what has adapters
        self.bound = bound
        self.adapters = adapters

    def cursor(self) -> LentCursor:
        return LentCursor(self)

    def execute(self, query: Any, params: Any = None) -> LentCursor:
        return self.cursor().execute(query, params)

    def __getattr__(self, name: str) -> Any:
        if name in _ASKED:
            return getattr(self.connection, name)
        raise UsageError(
            f"{name} of psycopg's connection in a handler: it is the step's, and has cursor(), execute(), adapters and "
            f"{', '.join(sorted(_ASKED))}. Use the cursor of Django's connection"
        )


class LentCursor:
    """What Django and its users ask of a cursor of psycopg's."""

    def __init__(self, connection: LentConnection) -> None:
        self._bound = connection.bound
        self.connection = connection
        self._cursor = _Cursor(connection.connection, connection.adapters)
        self._rows: deque[Any] = deque()
        self.arraysize = 1
        self.closed = False

    def execute(self, query: Any, params: Any = None) -> LentCursor:
        self._send(self._execute, query, params)
        return self

    def executemany(self, query: Any, param_list: Any) -> None:
        self._send(self._execute_many, query, param_list)

    def _send(self, call: Any, query: Any, params: Any) -> None:
        if self.closed:
            raise psycopg.InterfaceError("the cursor is closed")
        dialect: Any = self._bound.dialect
        dialect.run_for(self._bound, call, self._text(query), params)

    def _text(self, query: Any) -> str:
        if isinstance(query, bytes):
            return query.decode()
        return query if isinstance(query, str) else str(query.as_string(self._cursor))

    def _execute(self, text: str, params: Any) -> None:
        self._rows.clear()
        await_only(self._cursor.execute(text, params))
        if self._cursor.description is not None:
            self._rows.extend(await_only(self._cursor.fetchall()))

    def _execute_many(self, text: str, param_list: Any) -> None:
        self._rows.clear()
        await_only(self._cursor.executemany(text, param_list))

    def copy(self, statement: Any, params: Any = None) -> LentCopy:
        """As psycopg's: `with cursor.copy("COPY seats FROM STDIN") as copy: copy.write_row(...)`."""

        def send(call: Callable[[AsyncCopy], Awaitable[Any]]) -> Any:
            came: list[Any] = []
            self._send(lambda text, values: came.append(await_only(self._copy(text, values, call))), statement, params)
            return came[0]

        return LentCopy(send)

    async def _copy(self, text: str, params: Any, call: Callable[[AsyncCopy], Awaitable[Any]]) -> Any:
        self._rows.clear()
        async with self._cursor.copy(text, params) as copy:
            return await call(copy)

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int = 0) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    def callproc(self, name: str, args: Any = None) -> Any:
        raise UsageError(f"callproc({name!r}) in a handler: write cursor.execute('SELECT {name}(...)')")

    def close(self) -> None:
        self.closed = True
        self._rows.clear()

    def __enter__(self) -> LentCursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    @property
    def statusmessage(self) -> str | None:
        return self._cursor.statusmessage

    @property
    def adapters(self) -> Any:
        return self._cursor.adapters

    @property
    def _query(self) -> Any:
        """What was sent, which Django logs with DEBUG."""
        return self._cursor._query
