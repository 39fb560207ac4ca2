"""A transaction of the memory store: it collects its changes, and the commit applies them in one go.

So nobody ever sees half of one, and a rollback has nothing to undo.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.errors import UsageError
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, OutboxRecord, Partition, StoredResponse
from ensue.ports import Table
from ensue.stores import rules
from ensue.stores.memory.data import Data, Place, Row, no_sessions
from ensue.stores.turns import Turn, Turns

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session


class MemoryTransaction:
    """One transaction: what it changes lies over what is committed, until the commit puts it there."""

    def __init__(self, data: Data, turns: Turns, committed: Callable[[], None], clock: Callable[[], float]) -> None:
        self._data = data
        self._turns = turns
        self._committed = committed
        self._clock = clock
        self._turn: Turn | None = None
        self._doomed: Exception | None = None
        self._now = 0.0
        self._tables: dict[str, dict[Any, Row]] = {}
        self._records: list[OutboxRecord] = []
        self._heads: dict[Place, int] = {}
        self._checkpoints: dict[Partition, Checkpoint] = {}
        self._letters: dict[int, DeadLetter | None] = {}
        self._inbox: dict[tuple[str, str, str], float] = {}
        self._responses: dict[str, tuple[StoredResponse, float]] = {}

    async def __aenter__(self) -> MemoryTransaction:
        self._turn = await self._turns.acquire()
        self._now = self._clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        turn, self._turn = self._turn, None
        assert turn is not None
        try:
            if error is None:
                if self._doomed is not None:
                    raise rules.cannot_commit(self._doomed) from self._doomed
                self._apply()
        finally:
            self._turns.release(turn)

    def _apply(self) -> None:
        data = self._data
        for name, rows in self._tables.items():
            data.tables.setdefault(name, {}).update(rows)
        if self._records:
            data.outbox += self._records
            data.written.append((data.last, self._now))
            data.heads.update(self._heads)
        data.checkpoints.update(self._checkpoints)
        for letter_id, letter in self._letters.items():
            if letter is None:
                data.letters.pop(letter_id, None)
            else:
                data.letters[letter_id] = letter
        data.inbox.update(self._inbox)
        data.responses.update(self._responses)
        if self._records:
            self._committed()

    # --- sessions: there are none

    @property
    def now(self) -> float:
        return self._now

    @property
    def session(self) -> AsyncSession:
        raise no_sessions()

    def sync_session(self) -> Session:
        raise no_sessions()

    async def flush(self) -> None: ...

    # --- rows of entities

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        committed, changed = self._rows(table)
        if not changed:
            return [committed[each] for each in set(ids) if each in committed]
        return [row for each in set(ids) if (row := changed.get(each) or committed.get(each)) is not None]

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        committed, changed = self._rows(table)
        at = table.columns.index(table.id_column)
        for row in rows:
            if row[at] in changed or row[at] in committed:
                raise UsageError(f"table {table.name} has a row with {table.id_column} {row[at]!r} already")
            changed[row[at]] = tuple(row)

    async def update_rows(self, table: Table, rows: Sequence[Row]) -> None:
        committed, changed = self._rows(table)
        at = table.columns.index(table.id_column)
        found = sum(row[at] in changed or row[at] in committed for row in rows)
        if found != len(rows):
            raise rules.rows_missing(table.name, table.id_column, len(rows), found)
        for row in rows:
            changed[row[at]] = tuple(row)

    def _rows(self, table: Table) -> tuple[dict[Any, Row], dict[Any, Row]]:
        self._check_open()
        return self._data.tables.get(table.name) or {}, self._tables.setdefault(table.name, {})

    # --- Ensue's own

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self._check_open()
        position = self._data.last + len(self._records)
        heads, committed = self._heads, self._data.heads
        for record in records:
            place = (record.topic, record.partition)
            position += 1
            record.previous = heads.get(place) or committed.get(place, 0)
            record.position = heads[place] = position
        self._records += records

    async def save_checkpoint(self, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
        self._check_open()
        stored = self._checkpoints.get(partition) or self._data.checkpoints.get(partition)
        if checkpoint.revision != (0 if stored is None else stored.revision):
            self._doomed = rules.checkpoint_moved(partition, checkpoint.revision)
            raise self._doomed
        watermarks = {} if stored is None else dict(stored.watermarks)
        for source in sources:
            watermarks[source] = checkpoint.watermarks[source]
        self._checkpoints[partition] = Checkpoint(
            checkpoint.offset,
            checkpoint.revision + 1,
            watermarks,
            dict(checkpoint.gaps),
            copy.copy(checkpoint.counters),
        )

    async def inbox_claim(self, subscription: str, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        self._check_open()
        claimed = set()
        for source, message_id in messages:
            key = (subscription, source, message_id)
            if key not in self._inbox and key not in self._data.inbox:
                self._inbox[key] = self._now
                claimed.add((source, message_id))
        return claimed

    async def dead_letters_add(self, letters: Sequence[DeadLetter]) -> None:
        self._check_open()
        for letter in letters:
            self._data.letter_id += 1  # a rollback leaves a hole in the numbers, nothing else
            letter.id = self._data.letter_id
            self._letters[letter.id] = copy.copy(letter)

    async def dead_letter_change(self, letter: DeadLetter) -> None:
        self._letters[letter.id] = msgspec.structs.replace(
            self._letter(letter.id), state=letter.state, attempts=letter.attempts, due_at=letter.due_at,
            error_type=letter.error_type, error=letter.error,
        )  # fmt: skip

    async def dead_letter_remove(self, ids: Sequence[int]) -> None:
        for letter_id in ids:
            self._letter(letter_id)
            self._letters[letter_id] = None

    def _letter(self, letter_id: int) -> DeadLetter:
        self._check_open()
        letter = self._letters[letter_id] if letter_id in self._letters else self._data.letters.get(letter_id)
        if letter is None or letter.state is DeadLetterState.DISCARDED:
            self._doomed = rules.letter_gone(letter_id)
            raise self._doomed
        return letter

    async def response_load(self, key: str) -> StoredResponse | None:
        self._check_open()
        found = self._responses.get(key) or self._data.responses.get(key)
        return None if found is None else found[0]

    async def response_save(self, response: StoredResponse) -> None:
        if await self.response_load(response.key) is not None:
            raise rules.answered_meanwhile(response.key)
        self._responses[response.key] = (response, self._now)

    def _check_open(self) -> None:
        if self._turn is None:
            raise rules.not_open()
