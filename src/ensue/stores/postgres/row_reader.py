"""`RowReader` on PostgreSQL: values go in and come out as the plain ones that every store has (see `rows`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ensue.ports import Table
from ensue.stores.postgres.handshake import quoted
from ensue.stores.postgres.rows import COLUMNS, TO_COLUMN, TO_PLAIN
from ensue.stores.sql_rows import Columns, SqlRows, check_columns

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


class PostgresRows(SqlRows):
    """Keep one for a store: it looks up a table's types once."""

    def __init__(self, reading: Callable[[], AbstractAsyncContextManager[AsyncSession]]) -> None:
        super().__init__(reading)
        self._known: dict[Table, Columns] = {}

    async def columns(self, session: AsyncSession, table: Table) -> Columns:
        found = self._known.get(table)
        if found is None:
            from sqlalchemy import text

            # A colon of its own would be a parameter to SQLAlchemy.
            query = COLUMNS.replace("::", "\\:\\:").replace("$1", ":place")
            rows = await session.execute(text(query), {"place": quoted(table.name)})
            types = {str(name): str(kind) for name, kind, _ in rows}
            check_columns(table, types)
            found = self._known[table] = Columns(
                {name: TO_COLUMN[types[name]] for name in types if types[name] in TO_COLUMN},
                [(at, TO_PLAIN[types[name]]) for at, name in enumerate(table.columns) if types[name] in TO_PLAIN],
            )
        return found
