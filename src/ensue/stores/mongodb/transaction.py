"""One step: what it changes is collected, and written at its end, one document after the other.

The order makes a crash between any two writes harmless: entities first (each remembers what took effect on it), then
Ensue's own rows, which are one write (`own.py`). See docs/adr/0021.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError

from ensue.errors import StoreConflict, UsageError
from ensue.message import Message, OutboxRecord
from ensue.ports import Row, Table
from ensue.stores.collected import CollectingTransaction
from ensue.stores.ending import finish
from ensue.stores.mongodb.documents import Entity, check_row, document_of, entity_of
from ensue.stores.mongodb.own import OwnRow
from ensue.stores.mongodb.server import Server
from ensue.stores.write_lock import Together
from ensue.tables import CHECKPOINTS

if TYPE_CHECKING:
    from ensue.stores.mongodb.store import MongoDbStore

_IDS_MAX = 1000
_DUPLICATE = 11000


class _Known:
    """Documents by id."""

    def __init__(self, documents: Mapping[Any, OwnRow | Entity]) -> None:
        self._documents = documents

    def has(self, row_id: Any) -> bool:
        return self._documents[row_id].row is not None

    def row(self, row_id: Any) -> Row | None:
        return self._documents[row_id].row

    def change(self, row_id: Any, row: Row | None) -> None:
        document = self._documents[row_id]
        document.row, document.changed = row, True


class MongoDbTransaction(CollectingTransaction):
    """See `DocumentTransaction`."""

    def __init__(self, store: MongoDbStore, turns: Together, server: Server) -> None:
        super().__init__(store, turns)
        self._store = store
        self._server = server
        self._tables: dict[str, tuple[Table, dict[Any, Entity]]] = {}
        self._published: list[OutboxRecord] = []
        self._own: dict[tuple[str, Any], OwnRow] = {}  # in the order in which they were first touched

    async def _clock(self) -> float:
        return await self._store.now()

    async def _commit(self) -> None:
        changed = self._changed()
        await finish(self._write(changed))

    def _changed(self) -> list[tuple[Table, Any, Entity]]:
        """The documents to write. Raises UsageError, before anything is written, for what one document cannot hold."""
        changed = [
            (table, row_id, entity)
            for table, entities in self._tables.values()
            for row_id, entity in entities.items()
            if entity.changed
        ]
        from_outside = [each for each in changed if not each[2].from_message]
        if len(from_outside) > 1 or (from_outside and len(changed) > 1):
            names = ", ".join(f"{table.name} {row_id!r}" for table, row_id, _ in changed[:5])
            raise UsageError(
                f"this step changes {len(changed)} entities ({names}), and in this database each is a document of its "
                "own, written by itself: change one in a step, and let the others follow from its events"
            )
        if self._published:
            if not from_outside:
                raise UsageError(
                    "this step publishes, and changes no entity: in this database events are part of the document of "
                    "the entity that they are about, so change (or insert) it in this step, by its repository"
                )
            from_outside[0][2].carry(self._published)
        for table, _, entity in changed:
            check_row(table, entity.row or ())
        return changed

    async def _write(self, changed: list[tuple[Table, Any, Entity]]) -> None:
        """Entities first, since they know by themselves what took effect on them; then Ensue's own rows."""
        store = self._store
        own = [each for each in self._own.values() if each.changed]
        from_outside = changed[0] if changed and not changed[0][2].from_message else None
        if own and from_outside is not None and all(each.table is not CHECKPOINTS for each in own):
            table, row_id, entity = from_outside
            step = secrets.token_hex(8)
            at = await store.now()  # not when it began: its handler may have taken longer than a doubt lasts
            entity.steps.append({"step": step, "at": at})
            await store.own.intend(own, at, table.name, row_id, step)
            try:
                await self._write_entities(changed)
            except StoreConflict:
                await store.own.withdraw([each.table for each in own], step)
                raise
            await store.own.confirm(own)
        else:
            await self._write_entities(changed)
            if own:
                await store.own.write(own, self._now)
        if any(entity.outbox for _, _, entity in changed):
            store.notify()

    async def _write_entities(self, changed: list[tuple[Table, Any, Entity]]) -> None:
        by_table: dict[str, list[InsertOne[Any] | ReplaceOne[Any]]] = {}
        for table, row_id, entity in changed:
            document = document_of(table, entity, self._now)
            guard = {"_id": row_id, "_ensue.version": entity.version}
            write: Any = ReplaceOne(guard, document) if entity.version else InsertOne(document)
            by_table.setdefault(table.name, []).append(write)
        for name, writes in by_table.items():
            for chunk in self._store.chunks(writes):
                inserts = sum(isinstance(each, InsertOne) for each in chunk)
                try:
                    with self._server.translated():
                        result = await self._server.collection(name).bulk_write(chunk, ordered=False)
                    lost = len(chunk) - inserts - result.matched_count
                except BulkWriteError as error:
                    errors = error.details["writeErrors"]
                    if any(each.get("code") != _DUPLICATE for each in errors):
                        raise
                    # What is there already, and what is not there any more as it was read.
                    lost = len(errors) + len(chunk) - inserts - error.details["nMatched"]
                self._store.reached("entities")
                if lost:
                    raise StoreConflict(
                        f"{self._server.place}: another step changed {lost} documents of {name} first: do this one "
                        "again",
                        table=name,
                    )

    # --- rows

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        if not table.own:
            raise UsageError(
                f"table {table.name}: in this database an entity is never deleted, since its document remembers what "
                "took effect on it: keep it, with a column that says that it is gone"
            )
        await super().delete_rows(table, ids, expect=expect)
        for each in ids:
            self._own[table.name, each].guarded = bool(expect)

    async def _see(self, table: Table, ids: Sequence[Any]) -> _Known:
        await self._store.known(table)
        return _Known(await (self._load_own(table, ids) if table.own else self._load(table, ids)))

    async def _load_own(self, table: Table, ids: Sequence[Any]) -> dict[Any, OwnRow]:
        """Read what is not known yet."""
        missing = [each for each in dict.fromkeys(ids) if (table.name, each) not in self._own]
        if missing:
            found = await self._store.own.load(table, missing, self._now)
            self._own.update({(table.name, row_id): each for row_id, each in found.items()})
        return {each: self._own[table.name, each] for each in ids}

    async def _load(self, table: Table, ids: Sequence[Any]) -> dict[Any, Entity]:
        """Read what is not known yet."""
        _, entities = self._tables.setdefault(table.name, (table, {}))
        missing = [each for each in dict.fromkeys(ids) if each not in entities]
        for begin in range(0, len(missing), _IDS_MAX):
            chunk = missing[begin : begin + _IDS_MAX]
            entities.update((each, Entity()) for each in chunk)
            where = {"_id": chunk[0] if len(chunk) == 1 else {"$in": chunk}}
            with self._server.translated():
                found = await self._server.collection(table.name).find(where).to_list()
            entities.update((document["_id"], entity_of(table, document)) for document in found)
        return entities

    # --- what an entity remembers (DocumentTransaction)

    def took_effect(self, table: Table, row_id: Any, message: Message) -> bool:
        return self._tables[table.name][1][row_id].took_effect(message)

    def attach(self, table: Table, row_id: Any, message: Message, outgoing: Sequence[OutboxRecord]) -> None:
        entity = self._tables[table.name][1][row_id]
        entity.note(message)
        entity.carry(outgoing)

    # --- the outbox

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self._check_open()
        self._published += records
