"""A transaction of the memory store: the commit applies its changes in one go, so nobody ever sees half of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores.collected import CollectingStore, CollectingTransaction
from ensue.stores.memory.data import Data
from ensue.stores.numbering import Place, number
from ensue.stores.write_lock import WriteLock


class Changed:
    """The rows of a table: what a transaction changes lies over what is committed."""

    def __init__(self, committed: dict[Any, Row]) -> None:
        self._committed = committed
        self.rows: dict[Any, Row | None] = {}  # None: deleted

    def has(self, row_id: Any) -> bool:
        return self.row(row_id) is not None

    def row(self, row_id: Any) -> Row | None:
        return self.rows[row_id] if row_id in self.rows else self._committed.get(row_id)

    def change(self, row_id: Any, row: Row | None) -> None:
        self.rows[row_id] = row


class MemoryTransaction(CollectingTransaction):
    def __init__(
        self,
        store: CollectingStore,
        data: Data,
        turns: WriteLock,
        committed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(store, turns)
        self._data = data
        self._committed = committed
        self._clock_s = clock
        self._tables: dict[str, Changed] = {}
        self._records: list[OutboxRecord] = []
        self._heads: dict[Place, int] = {}

    async def _clock(self) -> float:
        return self._clock_s()

    async def _see(self, table: Table, ids: Sequence[Any]) -> Changed:
        changed = self._tables.get(table.name)
        if changed is None:
            changed = self._tables[table.name] = Changed(self._data.tables.get(table.name, {}))
        return changed

    async def _commit(self) -> None:
        data = self._data
        for name, changed in self._tables.items():
            rows = data.tables.setdefault(name, {})
            for row_id, row in changed.rows.items():
                if row is None:
                    rows.pop(row_id, None)
                else:
                    rows[row_id] = row
        if self._records:
            data.outbox += self._records
            data.written.append((data.last, self._now))
            data.heads.update(self._heads)
            self._committed()

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self._check_open()
        number(records, self._data.last + len(self._records), self._data.heads, self._heads)
        self._records += records
