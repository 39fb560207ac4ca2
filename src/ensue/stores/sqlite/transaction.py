"""One step's transaction on the write connection: the `StepTransaction` port."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ensue.errors import RowConflict, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.sqlite import rows
from ensue.stores.sqlite.failures import failure_of_database, raise_unavailable
from ensue.stores.sqlite.writer import Writer
from ensue.stores.turns import Turn

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ensue.stores.sessions import StepSession
    from ensue.stores.sqlite.outbox import Tail


class SqliteTransaction:
    """An async context manager that gives itself. What its methods promise: see `StepTransaction`.

    committed: called after a commit that added outbox records. clock: epoch seconds. durable: False for what may be
    lost in a power cut (never torn): it costs no fsync.
    """

    __slots__ = (
        "_async_session", "_bind", "_clock", "_committed", "_connection", "_doomed", "_durable", "_now",
        "_plain_session", "_tail", "_turn", "_writer",
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
        self._turn: Turn | None = None
        self._doomed: Exception | None = None
        self._async_session: AsyncSession | None = None
        self._plain_session: StepSession | None = None
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
            await self._finish_sessions()
            self._check()
            writer.gate.close()
            published = writer.tail.touched
            cancelled = await writer.commit()
        except BaseException as error:
            self._roll_back()
            _raise_failure_of_database(error, writer.path)
            raise
        self._end_sessions()
        if published:
            self._committed()
        if cancelled is not None:
            raise cancelled

    def _roll_back(self) -> None:
        self._writer.gate.close()  # first of all: a thread of a cancelled handler may still be writing
        self._writer.rollback()
        if self._plain_session is not None:
            # That thread may be inside its session as well: leave it alone, the gate keeps it from the database.
            self._plain_session = self._bind = None
        self._end_sessions()

    def _check(self) -> None:
        """Refuse to commit half of something whose error was caught on the way."""
        if self._doomed is not None:
            raise rules.cannot_commit(self._doomed) from self._doomed
        if not self._connection.in_transaction:
            raise UsageError(
                "the step's transaction was ended inside of it, by a COMMIT or ROLLBACK statement or by an error of "
                "the database that was caught: a step commits by itself when it returns; let such errors pass"
            )

    # --- sessions

    @property
    def now(self) -> float:
        return self._now

    @property
    def session(self) -> AsyncSession:
        if self._async_session is None:
            from ensue.stores.sessions import step_session

            turn = self._begin_session()
            connection = self._writer.engines.connect()
            self._bind = connection.sync_connection
            self._writer.gate.open(self._bind, turn)
            self._async_session = step_session(connection)
        return self._async_session

    def sync_session(self) -> Session:
        if self._plain_session is None:
            from ensue.stores.sessions import plain_step_session

            turn = self._begin_session()
            bind = self._writer.engines.connect_plain()
            try:
                self._writer.gate.open(bind, turn)
            except UsageError:  # this thread was cancelled, and its step has ended meanwhile
                bind.close()
                raise
            self._bind = bind
            self._plain_session = plain_step_session(bind)
        return self._plain_session

    def _begin_session(self) -> Turn:
        turn = self._turn
        if turn is None:
            raise rules.not_open()
        if self._async_session is not None or self._plain_session is not None:
            raise UsageError(
                "one transaction has one session: step.session (async) and sync_session() do not see each other's "
                "unsaved objects; write all handlers of one event as async def, or all as def"
            )
        return turn

    async def flush(self) -> None:
        if self._async_session is not None:
            await self._async_session.flush()
        elif self._plain_session is not None:
            self._plain_session.flush()

    async def _finish_sessions(self) -> None:
        session = self._plain_session if self._async_session is None else self._async_session.sync_session
        if session is None:
            return
        if not session.is_active:
            raise UsageError(
                "an error of a flush was caught inside the step, so half of its changes would be missing: let it pass, "
                "or flush inside `async with session.begin_nested()`"
            )
        await self.flush()  # a savepoint that was left open is part of what COMMIT commits

    def _end_sessions(self) -> None:
        session = self._plain_session if self._async_session is None else self._async_session.sync_session
        bind = self._bind
        self._async_session = self._plain_session = self._bind = None
        if session is not None:
            cast("StepSession", session).end()
        if bind is not None:
            bind.close()

    # --- rows

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        with self._translated():
            return rows.load(self._connection, table, ids)

    async def insert_rows(self, table: Table, rows_: Sequence[Row]) -> None:
        await self._leave_nothing_old_in_the_session(table)
        with self._translated():
            rows.insert(self._connection, table, rows_)

    async def update_rows(self, table: Table, rows_: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        await self._leave_nothing_old_in_the_session(table)
        with self._translated():
            rows.update(self._connection, table, rows_, expect)

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        await self._leave_nothing_old_in_the_session(table)
        with self._translated():
            rows.delete(self._connection, table, ids, expect)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RowConflict as error:
            self._doomed = error  # whoever lost a race must not commit, whatever the caller makes of it
            raise
        except sqlite3.Error as error:
            raise_unavailable(error, self._writer.path)
            raise

    async def _leave_nothing_old_in_the_session(self, table: Table) -> None:
        """Rows are written past the session: an object of it that a handler kept would bring back what was there."""
        if table.own:
            return
        session = self._plain_session if self._async_session is None else self._async_session.sync_session
        if session is not None:
            await self.flush()
            session.expire_all()

    # --- the outbox

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        try:
            self._tail.add(records, self._now)
        except Exception as error:
            self._doomed = error  # a part of the records may be in: the chain would point into nothing
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
