"""Plain tables of entities in bulk: the part of a `Dialect` that is the same whatever its statements are."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ensue.ports import Row, Table
from ensue.stores.sql.driver import Rows
from ensue.stores.sql.link import Link
from ensue.stores.sql_rows import check_columns


class Statements(Protocol):
    """The statements of one table."""

    async def load(self, link: Link, ids: Sequence[Any]) -> Rows:
        """Return the rows with these ids, each once; locked in id order."""

    async def update(self, link: Link, rows: Sequence[Row], expect: Sequence[Any]) -> int:
        """Return how many were there, as expected. In id order, as locks are taken everywhere."""

    async def delete(self, link: Link, ids: Sequence[Any], expect: Sequence[Any]) -> int:
        """Return how many were there, as expected."""


S = TypeVar("S", bound=Statements)
Kind = TypeVar("Kind")


class Bulk(abc.ABC, Generic[S, Kind]):
    """Makes the statements of a table when first asked for it. Kind: what the catalog says of a column."""

    def __init__(self) -> None:
        self._known: dict[Table, S] = {}

    @abc.abstractmethod
    async def kinds(self, link: Link, table: Table) -> Mapping[str, Kind]:
        """By column, as the database has it."""

    @abc.abstractmethod
    def statements(self, table: Table, kinds: Sequence[Kind]) -> S:
        """kinds: of its columns, in the table's order."""

    async def of(self, link: Link, table: Table) -> S:
        found = self._known.get(table)
        if found is None:
            kinds = await self.kinds(link, table)
            check_columns(table, kinds, f"{link.place}: ")
            found = self._known[table] = self.statements(table, [kinds[name] for name in table.columns])
        return found

    async def load_rows(self, link: Link, table: Table, ids: Sequence[Any]) -> Rows:
        return await (await self.of(link, table)).load(link, ids)

    async def update_rows(self, link: Link, table: Table, rows: Sequence[Row], expect: Sequence[Any]) -> int:
        return await (await self.of(link, table)).update(link, rows, expect)

    async def delete_rows(self, link: Link, table: Table, ids: Sequence[Any], expect: Sequence[Any]) -> int:
        return await (await self.of(link, table)).delete(link, ids, expect)
