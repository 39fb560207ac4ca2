"""Django's cursors on the connection of an SQLite store."""

from __future__ import annotations

import re
import sqlite3
import weakref
from typing import Any, NoReturn

from django.db.backends.sqlite3._functions import register
from django.db.backends.sqlite3.base import SQLiteCursorWrapper
from sqlalchemy import Connection, Engine

from ensue.errors import UsageError

#: What receivers of `connection_created` say to connections of Django's own: it changes nothing here, or cannot be said
#: in a transaction.
_SETS = re.compile(r"\s*PRAGMA\b[^;]*[=(]", re.I)
#: Whose connection has the functions that Django's queries call: a store has one engine, and one connection.
_prepared: weakref.WeakSet[Engine] = weakref.WeakSet()


def raw_connection(bound: Connection, wrapper: Any) -> sqlite3.Connection:
    raw: Any = bound.connection.driver_connection
    if bound.engine not in _prepared:
        register(raw)
        _prepared.add(bound.engine)
    return raw  # type: ignore[no-any-return]


def new_cursor(wrapper: Any, bound: Connection) -> LentCursor:
    cursor: LentCursor = wrapper.connection.cursor(factory=LentCursor)
    cursor.bound, cursor.wrapper = bound, wrapper
    return cursor


class LentCursor(SQLiteCursorWrapper):
    """Sends and reads under the gate's lock, since the event loop may interrupt what runs."""

    bound: Connection
    wrapper: Any

    @property
    def _dialect(self) -> Any:
        return self.bound.dialect

    def execute(self, query: str, params: Any = None) -> LentCursor:
        if self.wrapper.announcing and _SETS.match(query):
            return self  # how the store's connection works with the file is said by ENSUE's STORE_OPTIONS
        self._dialect.run_for(self.bound, super().execute, query, params)
        return self

    def executemany(self, query: str, param_list: Any) -> LentCursor:
        self._dialect.run_for(self.bound, super().executemany, query, param_list)
        return self

    def executescript(self, script: str) -> NoReturn:
        raise UsageError(
            "cursor.executescript() in a handler: sqlite3 commits before it, and here the step commits, when the "
            "handler returns. Send one statement at a time, by execute()"
        )

    def fetchone(self) -> Any:
        with self._dialect.gate.lock:
            return super().fetchone()

    def fetchmany(self, *size: Any, **named: Any) -> Any:
        with self._dialect.gate.lock:
            return super().fetchmany(*size, **named)

    def fetchall(self) -> Any:
        with self._dialect.gate.lock:
            return super().fetchall()

    def __next__(self) -> Any:
        with self._dialect.gate.lock:
            return super().__next__()

    def close(self) -> None:
        with self._dialect.gate.lock:
            super().close()
