"""`RowReader` on collections, by indexes that the store makes when a table is first used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ensue.ports import Lookup, Table
from ensue.stores.mongodb.documents import Row, field, sorted_field, sorted_value
from ensue.stores.mongodb.own import THERE
from ensue.stores.mongodb.server import Document, Server
from ensue.tables import CHECKPOINTS

_IDS_MAX = 1000


class MongoDbRows:
    """known: makes a table's indexes. settle: moves Ensue's own rows to where they are looked for."""

    def __init__(
        self, server: Server, known: Callable[[Table], Awaitable[None]], settle: Callable[[], Awaitable[None]]
    ) -> None:
        self._server = server
        self._make_known = known
        self._settle = settle

    async def _known(self, table: Table) -> None:
        await self._make_known(table)
        if table.own and table is not CHECKPOINTS:
            await self._settle()

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
        backward: bool = False,
    ) -> Sequence[Row]:
        await self._known(table)
        order = [sorted_field(table, name) for name in lookup.order]
        conditions: list[Document] = [_equal(table, lookup, equal)]
        if since:
            conditions.append(_from(table, lookup.order, since, "$gte"))
        if after:
            conditions.append((_before if backward else _behind)(table, lookup.order, after))
        where = conditions[0] if len(conditions) == 1 else {"$and": conditions}
        return await self._rows(table, where, sort=[(name, -1 if backward else 1) for name in order], limit=limit)

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        await self._known(table)
        where = _equal(table, lookup, equal) | (THERE if table.own else {})
        with self._server.translated():
            return int(await self._server.collection(table.name).count_documents(where))

    async def _rows(self, table: Table, where: Document, **how: Any) -> list[Row]:
        names = [field(table, name) for name in table.columns]
        if table.own:
            where = {"$and": [where, THERE]}
        with self._server.translated():
            found = await self._server.collection(table.name).find(where, {"_ensue": 0}, **how).to_list()
        return [tuple(document[name] for name in names) for document in found]


def _equal(table: Table, lookup: Lookup, equal: Sequence[Any]) -> Document:
    pairs = zip(lookup.equal, equal, strict=True)
    return {sorted_field(table, name): sorted_value(table, name, value) for name, value in pairs}


def _behind(table: Table, names: Sequence[str], values: Sequence[Any]) -> Document:
    return _from(table, names, values, "$gt")


def _before(table: Table, names: Sequence[str], values: Sequence[Any]) -> Document:
    """Documents whose fields come before these values. Nothing comes before everything."""
    name, value = sorted_field(table, names[0]), sorted_value(table, names[0], values[0])
    # With the kind of a value alone, an index is read from there on; a row of Ensue's own has a value everywhere.
    earlier: list[Document] = [] if value is None else [{name: {"$lt": value}}]
    if value is not None and not table.own:
        earlier.append({name: None})
    if len(values) > 1:
        earlier.append({"$and": [{name: value}, _before(table, names[1:], values[1:])]})
    return {"$or": earlier} if earlier else {"$nor": [{}]}


def _from(table: Table, names: Sequence[str], values: Sequence[Any], last: str) -> Document:
    """Documents whose fields come after these values, or are them with `last` = $gte. Nothing comes before everything;
    a comparison finds values of the same kind only."""
    name, value = sorted_field(table, names[0]), sorted_value(table, names[0], values[0])
    later = {"$ne": None} if value is None else {"$gt": value}
    if len(values) == 1:
        if last == "$gt":
            return {name: later}
        return {} if value is None else {name: {last: value}}
    return {"$or": [{name: later}, {"$and": [{name: value}, _from(table, names[1:], values[1:], last)]}]}
