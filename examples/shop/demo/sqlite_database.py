"""A service's SQLite file, opened so that it can only be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

from shop.demo.sql_reader import SqlReader


class SqliteDatabase:
    def __init__(self, service: str, path: Path) -> None:
        self._service = service
        self._uri = f"{path.absolute().as_uri()}?mode=ro"

    @contextmanager
    def reading(self) -> Iterator[SqlReader]:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=10)) as connection:
            connection.execute("BEGIN")
            yield SqlReader(self._service, connection.execute)

    @contextmanager
    def watching(self) -> Iterator[Callable[[Collection[UUID]], dict[UUID, str]]]:
        """`PRAGMA data_version` says whether anything changed since the last look, which saves most of them."""
        with closing(sqlite3.connect(self._uri, uri=True, timeout=0.1)) as connection:
            reader = SqlReader(self._service, connection.execute)
            seen: tuple[int, frozenset[UUID]] = (-1, frozenset())

            def decided(orders: Collection[UUID]) -> dict[UUID, str]:
                nonlocal seen
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if (version, frozenset(orders)) == seen:
                    return {}
                seen = (version, frozenset(orders))
                return reader.decided(orders)

            yield decided
