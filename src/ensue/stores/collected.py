"""Stores without sessions, whose transactions collect what they change: the commit writes it, a rollback drops it."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

from ensue.errors import UsageError
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.sessionless import SessionlessStore, SessionlessTransaction
from ensue.stores.write_lock import Together, WriteLock


class CollectingStore(SessionlessStore):
    """The part of a `Store` that is the same in all of these. kind: the database's name, for error texts."""

    kind: str

    def __init__(self, service: str, epoch: str = "") -> None:
        self.service = service
        self._epoch = epoch

    @property
    def source(self) -> str:
        return f"{self.service}/{self._epoch}"


class Closing(Protocol):
    async def close(self) -> None: ...


S = TypeVar("S", bound=Closing)


class ServedStore(CollectingStore, Generic[S]):
    """One on a server, whose steps need not wait for each other; S: the connection to it, from open to close."""

    def __init__(self, service: str) -> None:
        super().__init__(service)
        self._server: S | None = None
        self._turns = Together()
        self._known: dict[Any, Any] = {}  # what was found out about tables, until close

    async def close(self) -> None:
        await self._turns.quiet()
        server, self._server = self._server, None
        self._known.clear()
        if server is not None:
            await server.close()

    def _opened(self) -> S:
        if self._server is None:
            raise rules.store_not_open(f"{self.kind} ", self.service)
        return self._server


class Seen(Protocol):
    """Rows of one table as the step sees them: those that were found, and over them what it changed."""

    def has(self, row_id: Any) -> bool:
        """Whether there is such a row."""

    def row(self, row_id: Any) -> Row | None: ...

    def change(self, row_id: Any, row: Row | None) -> None:
        """row: None removes it."""


class CollectingTransaction(SessionlessTransaction, abc.ABC):
    """An async context manager that gives itself. What its methods promise: see `StepTransaction`."""

    def __init__(self, store: CollectingStore, turns: WriteLock | Together) -> None:
        self._turns = turns
        self._turn: Any = None
        self._open = False
        self._doomed: Exception | None = None
        self._now = 0.0

    # --- what a database gives

    @abc.abstractmethod
    async def _clock(self) -> float:
        """The database's clock."""

    @abc.abstractmethod
    async def _see(self, table: Table, ids: Sequence[Any]) -> Seen:
        """Read the rows with these ids that are not known yet."""

    @abc.abstractmethod
    async def _commit(self) -> None:
        """Write all that was collected."""

    @abc.abstractmethod
    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None: ...

    # --- how it begins and ends

    async def __aenter__(self) -> Self:
        self._turn = await self._turns.acquire()
        try:
            self._now = await self._clock()
        except BaseException:
            self._turns.release(self._turn)
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
                await self._commit()
        finally:
            self._open = False
            self._turns.release(self._turn)

    def _check_open(self) -> None:
        if not self._open:
            raise rules.not_open()

    def _doom(self, error: Exception) -> NoReturn:
        self._doomed = error
        raise error

    @property
    def now(self) -> float:
        return self._now

    # --- rows

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        self._check_open()
        seen = await self._see(table, ids)
        return [row for each in dict.fromkeys(ids) if (row := seen.row(each)) is not None]

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        ids, seen = await self._see_rows(table, rows)
        for row_id, row in zip(ids, rows, strict=True):
            if seen.has(row_id):
                if table.own:
                    self._doom(rules.row_exists(table.name, row_id))
                raise UsageError(f"table {table.name} has a row with {table.id_column} {row_id!r} already")
            seen.change(row_id, tuple(row))

    async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        ids, seen = await self._see_rows(table, rows)
        self._check_expected(table, seen, ids, expect)
        found = sum([seen.has(each) for each in ids])
        if found != len(rows):
            raise rules.rows_missing(table.name, table.id_column, len(rows), found)
        for row_id, row in zip(ids, rows, strict=True):
            seen.change(row_id, tuple(row))

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        self._check_open()
        seen = await self._see(table, ids)
        self._check_expected(table, seen, ids, expect)
        for each in ids:
            seen.change(each, None)

    async def _see_rows(self, table: Table, rows: Sequence[Row]) -> tuple[list[Any], Seen]:
        self._check_open()
        at = table.columns.index(table.id_column)
        ids = [row[at] for row in rows]
        return ids, await self._see(table, ids)

    def _check_expected(self, table: Table, seen: Seen, ids: Sequence[Any], expect: Sequence[Any]) -> None:
        """What is as expected now must be so when it is written, too: that is up to the commit."""
        if expect:
            at = table.columns.index(table.revision)
            rows = [seen.row(each) for each in ids]
            same = sum(row is not None and row[at] == each for row, each in zip(rows, expect, strict=True))
            if same != len(ids):
                self._doom(rules.rows_changed(table.name, ids, same))
