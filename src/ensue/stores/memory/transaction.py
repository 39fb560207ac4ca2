"""A transaction of the memory store: it collects its changes, and the commit applies them in one go.

So nobody ever sees half of one, and a rollback has nothing to undo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from ensue.errors import RowConflict, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.memory.data import Data, Place
from ensue.stores.sessionless import SessionlessTransaction
from ensue.stores.turns import Turn, Turns

if TYPE_CHECKING:
    pass


class MemoryTransaction(SessionlessTransaction):
    """One transaction: what it changes lies over what is committed, until the commit puts it there."""

    def __init__(self, data: Data, turns: Turns, committed: Callable[[], None], clock: Callable[[], float]) -> None:
        self._data = data
        self._turns = turns
        self._committed = committed
        self._clock = clock
        self._turn: Turn | None = None
        self._doomed: Exception | None = None
        self._now = 0.0
        self._tables: dict[str, dict[Any, Row | None]] = {}  # None: deleted
        self._records: list[OutboxRecord] = []
        self._heads: dict[Place, int] = {}

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
        for name, changed in self._tables.items():
            rows = data.tables.setdefault(name, {})
            for row_id, row in changed.items():
                if row is None:
                    rows.pop(row_id, None)
                else:
                    rows[row_id] = row
        if self._records:
            data.outbox += self._records
            data.written.append((data.last, self._now))
            data.heads.update(self._heads)
            self._committed()

    # --- sessions: there are none

    @property
    def now(self) -> float:
        return self._now

    # --- rows

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        self._check_open()
        return [row for each in set(ids) if (row := self._row(table, each)) is not None]

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        self._check_open()
        for row_id, row in self._by_id(table, rows):
            if self._row(table, row_id) is not None:
                if table.own:
                    self._doom(rules.row_exists(table.name, row_id))
                raise UsageError(f"table {table.name} has a row with {table.id_column} {row_id!r} already")
            self._change(table, row_id, row)

    async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        self._check_open()
        changes = self._by_id(table, rows)
        ids = [row_id for row_id, _ in changes]
        self._check_expected(table, ids, expect)
        found = sum(self._row(table, each) is not None for each in ids)
        if found != len(ids):
            raise rules.rows_missing(table.name, table.id_column, len(ids), found)
        for row_id, row in changes:
            self._change(table, row_id, row)

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        self._check_open()
        self._check_expected(table, ids, expect)
        for row_id in ids:
            self._change(table, row_id, None)

    def _check_expected(self, table: Table, ids: Sequence[Any], expect: Sequence[Any]) -> None:
        if expect:
            at = table.columns.index(table.revision)
            rows = [self._row(table, each) for each in ids]
            same = sum(row is not None and row[at] == each for row, each in zip(rows, expect, strict=True))
            if same != len(ids):
                self._doom(rules.rows_changed(table.name, ids, same))

    def _doom(self, error: RowConflict) -> NoReturn:
        self._doomed = error
        raise error

    def _by_id(self, table: Table, rows: Sequence[Row]) -> list[tuple[Any, Row]]:
        at = table.columns.index(table.id_column)
        return [(row[at], tuple(row)) for row in rows]

    def _row(self, table: Table, row_id: Any) -> Row | None:
        """As this step sees it."""
        changed = self._tables.get(table.name, {})
        return changed[row_id] if row_id in changed else self._data.tables.get(table.name, {}).get(row_id)

    def _change(self, table: Table, row_id: Any, row: Row | None) -> None:
        self._tables.setdefault(table.name, {})[row_id] = row

    # --- the outbox

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

    def _check_open(self) -> None:
        if self._turn is None:
            raise rules.not_open()
