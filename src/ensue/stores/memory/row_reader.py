"""`RowReader` on dicts: every query looks at every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ensue.ports import Lookup, Row, Table
from ensue.stores.memory.data import Data
from ensue.stores.sort_keys import place


class MemoryRows:
    def __init__(self, data: Data) -> None:
        self._data = data

    async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        rows = self._data.tables.get(table.name, {})
        return [rows[each] for each in set(ids) if each in rows]

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
    ) -> Sequence[Row]:
        columns = [table.columns.index(name) for name in lookup.order]
        lowest, last = place(table, lookup.order, since), place(table, lookup.order, after) if after else None
        found = []
        for row in self._of(table, lookup, equal):
            where = place(table, lookup.order, [row[at] for at in columns])
            if where >= lowest and (last is None or (where < last if backward else where > last)):
                found.append((where, row))
        return [row for _, row in sorted(found, reverse=backward)[:limit]]

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        return sum(1 for _ in self._of(table, lookup, equal))

    def _of(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> Iterator[Row]:
        columns = [table.columns.index(name) for name in lookup.equal]
        wanted = place(table, lookup.equal, equal)
        for row in self._data.tables.get(table.name, {}).values():
            if place(table, lookup.equal, [row[at] for at in columns]) == wanted:
                yield row
