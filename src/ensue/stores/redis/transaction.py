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
from ensue.stores.ending import finish
from ensue.stores.redis.fields import fields_of
from ensue.stores.redis.keys import Keys
from ensue.stores.redis.packing import lists, word, words
from ensue.stores.redis.scripts import COMMIT
from ensue.stores.redis.server import Server
from ensue.stores.redis.touched import Touched
from ensue.stores.write_lock import Together

if TYPE_CHECKING:
    from ensue.stores.redis.store import RedisStore


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
        checks = [(touched.table, each) for touched in self._tables.values() for each in touched.checks()]
        writes = [words(each) for touched in self._tables.values() for each in touched.writes()]
        if not writes:
            return
        relied = [lists([word(each.key), words(each.fields), word(each.found)]) for _, each in checks]
        plan = lists([lists(relied), lists(writes)])
        failed = int(await finish(self._server.script(COMMIT, [self._keys.meta], [plan], may_repeat=False)))
        if failed:
            table = checks[failed - 1][0]
            raise (RowConflict if table.own else StoreConflict)(
                f"{self._server.place}: another step changed a row of {table.name} first: do this one again",
                table=table.name,
            )

    async def _see(self, table: Table, ids: Sequence[Any]) -> Touched:
        await self._store.known(table)
        touched = self._tables.get(table.name)
        if touched is None:
            touched = self._tables[table.name] = Touched(table, self._keys)
        if unknown := touched.unknown(ids):
            touched.knows(unknown, await fields_of(self._server, touched.key, list(unknown.values())))
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
