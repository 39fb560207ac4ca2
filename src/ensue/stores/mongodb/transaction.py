"""One step: what it changes is collected, and written at its end, one document after the other.

The order makes a crash between any two writes harmless: entities first (each remembers what took effect on it), then
claims, then the checkpoint with its new dead letters, then what only tidies up. See docs/adr/0021.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError

from ensue.errors import StoreConflict, UsageError
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Message, OutboxRecord, Partition, StoredResponse
from ensue.ports import Table
from ensue.stores import rules
from ensue.stores.mongodb import records
from ensue.stores.mongodb.documents import Entity, Row, check_row, document_of, entity_of
from ensue.stores.mongodb.server import Server
from ensue.stores.unbroken import unbroken

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ensue.stores.mongodb.store import MongoDbStore

_IDS_MAX = 1000
_DUPLICATE = 11000


class MongoDbTransaction:
    """An async context manager that gives itself. What its methods promise: see `DocumentTransaction`."""

    def __init__(self, store: MongoDbStore, server: Server) -> None:
        self._store = store
        self._server = server
        self._open = False
        self._doomed: Exception | None = None
        self._now = 0.0
        self._tables: dict[str, tuple[Table, dict[Any, Entity]]] = {}
        self._published: list[OutboxRecord] = []
        self._checkpoints: dict[Partition, tuple[Checkpoint, list[str]]] = {}
        self._letters: list[DeadLetter] = []
        self._changes: dict[int, tuple[DeadLetter, DeadLetter | None]] = {}  # as it was found, as it becomes
        self._claims: dict[str, None] = {}
        self._answers: dict[str, StoredResponse] = {}

    async def __aenter__(self) -> MongoDbTransaction:
        self._store.begin()
        try:
            self._now = await self._server.time()
        except BaseException:
            self._store.end()
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                if self._doomed is not None:
                    raise rules.cannot_commit(self._doomed) from self._doomed
                changed = self._changed()
                await unbroken(self._commit(changed))
        finally:
            self._open = False
            self._store.end()

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

    async def _commit(self, changed: list[tuple[Table, Any, Entity]]) -> None:
        reached, store = self._store.reached, self._store
        name = secrets.token_hex(8)
        if self._answers and changed:
            # In doubt until the document that names this step is there: see records.Answers.
            changed[0][2].steps.append({"step": name, "at": self._now})
            for answer in self._answers.values():
                await store.answers.intend(answer, self._now, changed[0][0].name, changed[0][1], name)
                reached("answer")
        try:
            await self._write_entities(changed)
        except StoreConflict:
            for answer in self._answers.values():
                await store.answers.withdraw(answer, name)
            raise
        for answer in self._answers.values():
            await store.answers.confirm(answer, self._now, in_doubt=bool(changed))
            reached("answered")
        if self._claims:
            await store.claim(list(self._claims), self._now)
            reached("claims")
        if not self._checkpoints and self._letters:
            await store.letters.insert(self._letters)
        letters = self._letters
        for partition, (checkpoint, sources) in self._checkpoints.items():
            await store.write_checkpoint(partition, checkpoint, sources, letters)
            letters = []
            reached("checkpoint")
        if self._checkpoints and self._letters:
            await store.letters.settle()
            reached("letters")
        for before, after in self._changes.values():
            await store.letters.change(before, after, self._now)
            reached("letter")
        if changed and any(entity.outbox for _, _, entity in changed):
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

    # --- sessions: there are none

    @property
    def now(self) -> float:
        return self._now

    @property
    def session(self) -> AsyncSession:
        raise records.no_sessions()

    def sync_session(self) -> Session:
        raise records.no_sessions()

    async def flush(self) -> None: ...

    # --- rows of entities

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        entities = await self._load(table, ids)
        found = (entities[each].row for each in dict.fromkeys(ids))
        return [row for row in found if row is not None]

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        at = table.columns.index(table.id_column)
        entities = await self._load(table, [row[at] for row in rows])
        for row in rows:
            entity = entities[row[at]]
            if entity.row is not None:
                raise UsageError(f"table {table.name} has a row with {table.id_column} {row[at]!r} already")
            entity.row, entity.changed = tuple(row), True

    async def update_rows(self, table: Table, rows: Sequence[Row]) -> None:
        at = table.columns.index(table.id_column)
        entities = await self._load(table, [row[at] for row in rows])
        found = sum(entities[row[at]].row is not None for row in rows)
        if found != len(rows):
            raise rules.rows_missing(table.name, table.id_column, len(rows), found)
        for row in rows:
            entity = entities[row[at]]
            entity.row, entity.changed = tuple(row), True

    async def _load(self, table: Table, ids: Sequence[Any]) -> dict[Any, Entity]:
        """Read what is not known yet."""
        self._check_open()
        await self._store.known(table)
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

    # --- Ensue's own

    async def outbox_add(self, records_: Sequence[OutboxRecord]) -> None:
        self._check_open()
        self._published += records_

    async def save_checkpoint(self, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
        self._check_open()
        stored = await self._store.revision(partition)
        if partition in self._checkpoints or checkpoint.revision != stored:
            self._doomed = rules.checkpoint_moved(partition, checkpoint.revision)
            raise self._doomed
        copy = msgspec.structs.replace(checkpoint, watermarks=dict(checkpoint.watermarks), gaps=dict(checkpoint.gaps))
        self._checkpoints[partition] = (copy, list(sources))

    async def inbox_claim(self, subscription: str, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        self._check_open()
        names = {records.claim_name(subscription, *each): each for each in messages}
        known = await self._store.claimed([each for each in names if each not in self._claims])
        fresh = {name: pair for name, pair in names.items() if name not in known and name not in self._claims}
        self._claims.update(dict.fromkeys(fresh))
        return set(fresh.values())

    async def dead_letters_add(self, letters: Sequence[DeadLetter]) -> None:
        self._check_open()
        if letters:
            first = await self._store.letters.numbers(len(letters))
            for letter_id, letter in enumerate(letters, first):
                letter.id = letter_id
            self._letters += [msgspec.structs.replace(each) for each in letters]

    async def dead_letter_change(self, letter: DeadLetter) -> None:
        found = await self._letter(letter.id)
        changed = msgspec.structs.replace(
            found, state=letter.state, attempts=letter.attempts, due_at=letter.due_at, error_type=letter.error_type,
            error=letter.error,
        )  # fmt: skip
        self._changes[letter.id] = (found, changed)

    async def dead_letter_remove(self, ids: Sequence[int]) -> None:
        for letter_id in ids:
            self._changes[letter_id] = (await self._letter(letter_id), None)

    async def _letter(self, letter_id: int) -> DeadLetter:
        self._check_open()
        letter = await self._store.dead_letter_get(letter_id)
        if letter is None or letter.state is DeadLetterState.DISCARDED or letter_id in self._changes:
            self._doomed = rules.letter_gone(letter_id)
            raise self._doomed
        return letter

    async def response_load(self, key: str) -> StoredResponse | None:
        self._check_open()
        return self._answers.get(key) or await self._store.answers.load(key, self._now)

    async def response_save(self, response: StoredResponse) -> None:
        if await self.response_load(response.key) is not None:
            raise rules.answered_meanwhile(response.key)
        self._answers[response.key] = response

    def _check_open(self) -> None:
        if not self._open:
            raise rules.not_open()
