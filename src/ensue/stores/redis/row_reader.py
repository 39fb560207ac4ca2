"""`RowReader` on hashes and sorted sets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ensue.ports import Lookup, Table
from ensue.stores.redis.fields import fields_of
from ensue.stores.redis.keys import Keys, row_key
from ensue.stores.redis.scripts import FIND, FIND_BACKWARD
from ensue.stores.redis.server import Server
from ensue.stores.redis.touched import Row, decode_row
from ensue.stores.sort_keys import place

_FIELDS_MAX = 1000


class RedisRows:
    """known: raises UsageError when a table is kept with other columns or lookups than it is declared with."""

    def __init__(self, server: Server, keys: Keys, known: Callable[[Table], Awaitable[None]]) -> None:
        self._server = server
        self._keys = keys
        self._known = known

    async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        await self._known(table)
        found: list[Row] = []
        fields = [row_key(each) for each in dict.fromkeys(ids)]
        for begin in range(0, len(fields), _FIELDS_MAX):
            raw = await fields_of(self._server, self._keys.table(table), fields[begin : begin + _FIELDS_MAX])
            found += [decode_row(each) for each in raw if each is not None]
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
        lowest, highest = b"[" + place(table, lookup.order, since), b"+"
        if after and backward:
            highest = b"(" + place(table, lookup.order, after)
        elif after:
            # 0xff: beyond the length that ends the entry itself.
            lowest = max(lowest, b"[" + place(table, lookup.order, after) + b"\xff\xff\xff")
        keys = [self._keys.lookup(table, lookup, equal), self._keys.table(table)]
        find, ends = (FIND_BACKWARD, [highest, lowest]) if backward else (FIND, [lowest, highest])
        return [decode_row(each) for each in await self._server.script(find, keys, [*ends, limit])]

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        await self._known(table)
        return int(await self._server.command("ZCARD", self._keys.lookup(table, lookup, equal)))
