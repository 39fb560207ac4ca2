"""One step's transaction on the write connection: the `StepTransaction` port."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ensue.errors import RowConflict, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.sqlite import rows
from ensue.stores.sqlite.failures import failure_of_database, raise_unavailable
from ensue.stores.sqlite.writer import Writer
from ensue.stores.step_sessions import StepSessions
from ensue.stores.write_lock import LockHolder

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ensue.stores.sqlite.outbox import Tail


#: An async connection, or a plain one.
C = TypeVar("C")


class SqliteTransaction:
    """An async context manager that gives itself. What its methods promise: see `StepTransaction`.

    committed: called after a commit that added outbox records. clock: epoch seconds. durable: False for what may be
    lost in a power cut (never torn): it costs no fsync.
    """

    __slots__ = (
        "_bind", "_clock", "_committed", "_connection", "_durable", "_now", "_sessions", "_tail", "_turn", "_writer",
    )  # fmt: skip

    def __init__(
        self, writer: Writer, committed: Callable[[], None], clock: Callable[[], float], *, durable: bool = True
    ) -> None:
        self._durable = durable
        self._writer = writer
        self._committed = committed
        self._clock = clock
        self._connection: sqlite3.Connection = _NOT_OPEN
        self._tail: Tail = _NOT_OPEN
        self._now = 0.0
        self._turn: LockHolder | None = None
        self._sessions = StepSessions()
        self._bind: Connection | None = None

    # --- how it begins and ends

    async def __aenter__(self) -> SqliteTransaction:
        self._turn = await self._writer.begin(durable=self._durable)
        self._writer.gate.begin(self._turn)
        self._connection = self._writer.connection
        self._tail = self._writer.tail
        self._now = self._clock()  # SQLite's clock is the host's
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        writer, turn = self._writer, self._turn
        assert turn is not None
        try:
            if error is None:
                await self._commit()
            else:
                self._roll_back()
                _raise_failure_of_database(error, writer.path)
        finally:
            self._turn = None
            self._connection = self._tail = _NOT_OPEN
            writer.release(turn)

    async def _commit(self) -> None:
        writer = self._writer
        try:
            await self._sessions.finish()
            writer.gate.settle()
            writer.gate.close()
            published = writer.tail.touched
            cancelled = await writer.commit()
        except BaseException as error:
            self._roll_back()
            _raise_failure_of_database(error, writer.path)
            raise
        if published:
            self._committed()
        try:
            self._sessions.end()
        finally:
            self._close_bind()
        if cancelled is not None:
            raise cancelled

    def _roll_back(self) -> None:
        self._writer.gate.stop()  # first of all: a thread of a cancelled handler may still be writing
        self._writer.rollback()
        try:
            if self._sessions.abandon():
                self._bind = None
        finally:
            self._close_bind()

    def _close_bind(self) -> None:
        bind, self._bind = self._bind, None
        if bind is not None:
            bind.close()

    # --- sessions

    @property
    def now(self) -> float:
        return self._now

    @property
    def session(self) -> AsyncSession:
        return self._sessions.get(lambda: self._bound(self._writer.engines.connect))

    def sync_session(self) -> Session:
        return self._sessions.get_plain(lambda: self._bound(self._writer.engines.connect_plain))

    def _bound(self, connect: Callable[[], C]) -> C:
        """Return a connection that may send statements until this transaction ends."""
        turn = self._opened()
        connection = connect()
        bind: Any = getattr(connection, "sync_connection", connection)
        try:
            self._writer.gate.open(bind, turn)
        except UsageError:  # this thread was cancelled, and its step has ended meanwhile
            bind.close()
            raise
        self._bind = bind
        return connection

    def _opened(self) -> LockHolder:
        turn = self._turn
        if turn is None:
            raise rules.not_open()
        return turn

    async def flush(self, *, forget: bool = False) -> None:
        await self._sessions.flush(forget=forget)
        self._opened()
        self._writer.gate.settle()
        if forget:
            self._writer.gate.watch.forget_savepoints()

    def follow(self, published: list[Any]) -> None:
        self._opened()
        self._writer.gate.watch.follow(published)

    # --- rows

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        self._ready(table)
        with _translated(self._writer):
            return rows.load(self._connection, table, ids)

    async def insert_rows(self, table: Table, rows_: Sequence[Row]) -> None:
        await self._sessions.leave_nothing_old(table)
        self._ready(table)
        with _translated(self._writer):
            rows.insert(self._connection, table, rows_)

    async def update_rows(self, table: Table, rows_: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        await self._sessions.leave_nothing_old(table)
        self._ready(table)
        with _translated(self._writer):
            rows.update(self._connection, table, rows_, expect)

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        await self._sessions.leave_nothing_old(table)
        self._ready(table)
        with _translated(self._writer):
            rows.delete(self._connection, table, ids, expect)

    def _ready(self, table: Table) -> None:
        """Before rows are read or written past the session."""
        self._opened()
        if table.own:
            self._writer.gate.settle()
        else:
            self._writer.gate.check_going_on()

    # --- the outbox

    async def take_over(self, source: str, position: int, heads: Mapping[tuple[str, int], int]) -> None:
        self._opened()
        self._writer.gate.settle()
        if not self._tail.take_over(source.rpartition("/")[2], position, heads):
            raise rules.has_history(self._writer.path)

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self._opened()
        self._writer.gate.settle()
        try:
            self._tail.add(records, self._now)
        except Exception as error:
            self._writer.gate.doomed = error  # a part of the records may be in: the chain would point into nothing
            raise


@contextmanager
def _translated(writer: Writer) -> Iterator[None]:
    try:
        yield
    except RowConflict as error:
        writer.gate.doomed = error  # whoever lost a race must not commit, whatever the caller makes of it
        raise
    except sqlite3.Error as error:
        raise_unavailable(error, writer.path)
        raise


class _NotOpen:
    """Stands where the connection does while a transaction is open, so that no call needs to ask."""

    def __getattr__(self, name: str) -> NoReturn:
        raise rules.not_open()


_NOT_OPEN: Any = _NotOpen()


def _raise_failure_of_database(error: BaseException, path: str) -> None:
    ours = failure_of_database(error, path)
    if ours is not None:
        raise ours from error
