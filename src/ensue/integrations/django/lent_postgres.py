"""Django's cursors on a connection of a PostgreSQL store, which is psycopg's async one and lives on the event loop.

A statement is bound as Django's own cursors bind it (on this side, with Django's types), sent on the event loop, and
its rows are all read there; what is left for the handler's thread is to take them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import psycopg
from django.db.backends.postgresql.psycopg_any import get_adapters_template
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.adapt import AdaptersMap
from sqlalchemy import Connection
from sqlalchemy.util.concurrency import await_only

from ensue.errors import UsageError

#: Names of one zone.
_UTC = frozenset({"UTC", "Etc/UTC", "GMT"})


def raw_connection(bound: Connection, wrapper: Any) -> AsyncConnection[Any]:
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
    return raw


def new_cursor(wrapper: Any, bound: Connection) -> LentCursor:
    adapters = get_adapters_template(bool(wrapper.timezone is not None), wrapper.timezone)
    return LentCursor(wrapper.connection, bound, adapters)


class _Cursor(AsyncClientCursor[Any]):
    def __init__(self, connection: AsyncConnection[Any], adapters: AdaptersMap) -> None:
        super().__init__(connection)
        self._adapters = AdaptersMap(adapters)  # Django's types, for its own statements alone


class LentCursor:
    """What Django and its users ask of a cursor of psycopg's."""

    def __init__(self, raw: AsyncConnection[Any], bound: Connection, adapters: AdaptersMap) -> None:
        self._bound = bound
        self._raw = raw
        self._cursor = _Cursor(raw, adapters)
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
        text = query if isinstance(query, str) else query.as_string(self._raw)
        dialect: Any = self._bound.dialect
        dialect.run_for(self._bound, call, text, params)

    def _execute(self, text: str, params: Any) -> None:
        self._rows.clear()
        await_only(self._cursor.execute(text, params))
        if self._cursor.description is not None:
            self._rows.extend(await_only(self._cursor.fetchall()))

    def _execute_many(self, text: str, param_list: Any) -> None:
        self._rows.clear()
        await_only(self._cursor.executemany(text, param_list))

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
