"""`RowReader` on SQLite: short queries on the engine's own reading connection, with no session in between."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ensue.ports import Lookup, Table
from ensue.stores import sql_rows
from ensue.stores.sqlite.readers import Snapshots
from ensue.stores.sqlite.rows import load, quoted


class SqliteRows:
    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Sequence[Any]]:
        return await self._snapshots.read(lambda connection: load(connection, table, ids)) if ids else ()

    async def find(
        self,
        table: Table,
        lookup: Lookup,
        equal: Sequence[Any],
        *,
        since: Sequence[Any] = (),
        after: Sequence[Any] = (),
        limit: int,
        backward: bool = False,
    ) -> Sequence[Sequence[Any]]:
        statement = sql_rows.find_statement(table, lookup, equal, since, after, limit, quoted, backward=backward)
        return await self._read(statement)

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        [(count,)] = await self._read(sql_rows.count_statement(table, lookup, equal, quoted))
        return int(count)

    async def _read(self, statement: sql_rows.Statement) -> Sequence[Sequence[Any]]:
        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(*statement).fetchall()

        return await self._snapshots.read(work)
