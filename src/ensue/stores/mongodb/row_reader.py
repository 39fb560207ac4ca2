"""`RowReader` on collections, by indexes that the store makes when a table is first used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ensue.ports import Lookup, Table
from ensue.stores.mongodb.documents import Row
from ensue.stores.mongodb.server import Document, Server

_IDS_MAX = 1000


class MongoDbRows:
    """known: makes a table's indexes."""

    def __init__(self, server: Server, known: Callable[[Table], Awaitable[None]]) -> None:
        self._server = server
        self._known = known

    async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        await self._known(table)
        wanted = list(dict.fromkeys(ids))
        found: list[Row] = []
        for begin in range(0, len(wanted), _IDS_MAX):
            found += await self._rows(table, {"_id": {"$in": wanted[begin : begin + _IDS_MAX]}})
        return found

    async def find(
        self,
        table: Table,
        lookup: Lookup,
        equal: Sequence[Any],
        *,
        since: Sequence[Any] = (),
        after: Sequence[Any] = (),
        limit: int,
    ) -> Sequence[Row]:
        await self._known(table)
        order = [field(table, name) for name in lookup.order]
        conditions: list[Document] = [_equal(table, lookup, equal)]
        if since:
            conditions.append(_from(order[: len(since)], since, "$gte"))
        if after:
            conditions.append(_from(order, after, "$gt"))
        where = conditions[0] if len(conditions) == 1 else {"$and": conditions}
        return await self._rows(table, where, sort=[(name, 1) for name in order], limit=limit)

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        await self._known(table)
        with self._server.translated():
            return int(await self._server.collection(table.name).count_documents(_equal(table, lookup, equal)))

    async def _rows(self, table: Table, where: Document, **how: Any) -> list[Row]:
        names = [field(table, name) for name in table.columns]
        with self._server.translated():
            found = await self._server.collection(table.name).find(where, {"_ensue": 0}, **how).to_list()
        return [tuple(document[name] for name in names) for document in found]


def field(table: Table, name: str) -> str:
    return "_id" if name == table.id_column else name


def _equal(table: Table, lookup: Lookup, equal: Sequence[Any]) -> Document:
    return {field(table, name): value for name, value in zip(lookup.equal, equal, strict=True)}


def _from(fields: Sequence[str], values: Sequence[Any], last: str) -> Document:
    """Documents whose fields come after these values, or are them with `last` = $gte."""
    name, value = fields[0], values[0]
    if len(fields) == 1:
        return {name: {last: value}}
    return {"$or": [{name: {"$gt": value}}, {"$and": [{name: value}, _from(fields[1:], values[1:], last)]}]}
