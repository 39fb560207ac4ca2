"""`RowReader` for databases whose columns have richer types than plain values, as their catalog says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ensue.ports import Table
from ensue.stores.sql_rows import Change, Columns, SqlRows, check_columns

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


@dataclasses.dataclass(frozen=True, slots=True)
class Catalog:
    """What a database says of a table's columns. query: their names, their types, and whether the database would sort
    their NULLs last, where `:place` is `place(table)`. to_column, to_plain: by type."""

    query: str
    place: Callable[[Table], str]
    to_column: Mapping[str, Change]
    to_plain: Mapping[str, Change]


class TypedRows(SqlRows):
    """For databases whose drivers insist on types. Keep one for a store: it looks up a table's types once."""

    def __init__(self, reading: Callable[[], AbstractAsyncContextManager[AsyncSession]], catalog: Catalog) -> None:
        super().__init__(reading)
        self._catalog = catalog
        self._known: dict[Table, Columns] = {}

    async def columns(self, session: AsyncSession, table: Table) -> Columns:
        found = self._known.get(table)
        if found is None:
            from sqlalchemy import text

            catalog = self._catalog
            rows = await session.execute(text(catalog.query), {"place": catalog.place(table)})
            described = {str(name): (str(kind).lower(), last) for name, kind, last in rows}
            check_columns(table, described)
            places = {name: at for at, name in enumerate(table.columns)}
            to_column, to_plain = catalog.to_column, catalog.to_plain
            found = self._known[table] = Columns(
                {name: to_column[kind] for name, (kind, _) in described.items() if kind in to_column},
                [(at, to_plain[described[name][0]]) for name, at in places.items() if described[name][0] in to_plain],
                frozenset(name for name, (_, last) in described.items() if last),
            )
        return found
