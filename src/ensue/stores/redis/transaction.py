"""One step: what it read is remembered, what it writes is collected, and one script at the end applies all of it.

Optimistic: nothing is locked while a step runs. The script refuses when a row, letter, claim or checkpoint is not what
the step found, and then nothing was written. See docs/adr/0020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ensue.errors import RowConflict, StoreConflict, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Table
from ensue.stores.collected import CollectingTransaction
from ensue.stores.ending import unbroken
from ensue.stores.redis.keys import Keys, row_key
from ensue.stores.redis.packing import pack
from ensue.stores.redis.scripts import COMMIT
from ensue.stores.redis.server import Server
from ensue.stores.redis.touched import Touched
from ensue.stores.turns import Together

if TYPE_CHECKING:
    from ensue.stores.redis.store import RedisStore

_FIELDS_MAX = 1000


class RedisTransaction(CollectingTransaction):
    def __init__(self, store: RedisStore, turns: Together, server: Server, keys: Keys, *, upkeep: bool) -> None:
        super().__init__(store, turns)
        self._upkeep = upkeep
        self._store = store
        self._server = server
        self._keys = keys
        self._tables: dict[str, Touched] = {}

    async def _clock(self) -> float:
        return await (self._store.begin_upkeep() if self._upkeep else self._store.now())

    async def _commit(self) -> None:
        checks = [(table, list(each)) for table in self._tables.values() for each in table.checks()]
        writes = [each for table in self._tables.values() for each in table.writes()]
        if not writes:
            return
        plan = pack([[check for _, check in checks], writes])
        failed = int(await unbroken(self._server.script(COMMIT, [self._keys.meta], [plan], may_repeat=False)))
        if failed:
            table = checks[failed - 1][0].table
            raise (RowConflict if table.own else StoreConflict)(
                f"{self._server.place}: another step changed a row of {table.name} first: do this one again",
                table=table.name,
            )

    async def _see(self, table: Table, ids: Sequence[Any]) -> Touched:
        await self._store.known(table)
        touched = self._tables.get(table.name)
        if touched is None:
            touched = self._tables[table.name] = Touched(table, self._keys)
        fields = dict.fromkeys(row_key(each) for each in ids)
        missing = [field for field in fields if field not in touched.found]
        for begin in range(0, len(missing), _FIELDS_MAX):
            chunk = missing[begin : begin + _FIELDS_MAX]
            raw = await self._server.command("HMGET", touched.key, *chunk)
            touched.found.update(zip(chunk, raw, strict=True))
        return touched

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self._check_open()
        if records:
            service = self._store.service
            self._doom(
                UsageError(
                    f"service {service} published an event, and its Redis store is for views: it has no outbox. Let "
                    "this service publish nothing (publishes=[]), or give it another database, e.g. postgresql://"
                )
            )
