"""One step's transaction on a connection of its own: the `StepTransaction` port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ensue.errors import RowConflict
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.sql import schema
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import Link, NoLink
from ensue.stores.sql.outbox import Outbox
from ensue.stores.sql.pool import Pool
from ensue.stores.step_sessions import StepSessions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

_NOT_OPEN: Any = NoLink()


class SqlTransaction:
    """An async context manager that gives itself. What its methods promise: see `StepTransaction`."""

    __slots__ = (
        "_dialect", "_engines", "_link", "_now", "_outbox", "_pool", "_published", "_sessions", "_snapshot", "_upkeep",
    )  # fmt: skip

    def __init__(
        self,
        pool: Pool,
        dialect: Dialect,
        engines: Engines,
        outbox: Outbox,
        *,
        upkeep: bool = False,
        snapshot: bool = False,
    ) -> None:
        self._upkeep = upkeep
        self._snapshot = snapshot
        self._pool = pool
        self._dialect = dialect
        self._engines = engines
        self._outbox = outbox
        self._link: Link = _NOT_OPEN
        self._now = 0.0
        self._published = False
        self._sessions = StepSessions()

    # --- how it begins and ends

    async def __aenter__(self) -> SqlTransaction:
        self._link = link = await self._pool.begin(snapshot=self._snapshot)
        if self._upkeep:
            try:
                await schema.clock(link, self._dialect)
            except BaseException:
                try:
                    await self._roll_back(link)
                finally:
                    self._pool.give(link)
                raise
        self._now = link.now()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        link = self._link
        try:
            if error is None:
                await self._commit(link)
            else:
                ours = link.behind(error)
                await self._roll_back(link)
                if ours is not None:
                    raise ours from error
        finally:
            self._link = _NOT_OPEN
            self._pool.give(link)

    async def _commit(self, link: Link) -> None:
        try:
            await self._sessions.finish()
            await link.settle()
            link.holder = None
            async with link.lock:  # a task that a handler left behind may be in the middle of a statement
                cancelled = await link.commit_to_end()
        except BaseException as error:
            ours = link.behind(error)
            await self._roll_back(link)
            if ours is not None:
                raise ours from error
            raise
        if self._published:
            self._outbox.committed()
        self._sessions.end()
        if cancelled is not None:
            raise cancelled

    async def _roll_back(self, link: Link) -> None:
        cancelled = await link.rollback_to_end()
        try:
            self._sessions.abandon()
        finally:
            if cancelled is not None:
                raise cancelled

    # --- sessions

    @property
    def now(self) -> float:
        return self._now

    @property
    def session(self) -> AsyncSession:
        return self._sessions.get(lambda: self._engines.connect(self._opened()))

    def sync_session(self) -> Session:
        return self._sessions.get_plain(lambda: self._engines.connect_plain(self._opened()))

    def _opened(self) -> Link:
        if self._link is _NOT_OPEN:
            raise rules.not_open()
        return self._link

    async def flush(self, *, forget: bool = False) -> None:
        await self._sessions.flush(forget=forget)
        link = self._opened()
        await link.settle()
        if forget:
            link.watch.forget_savepoints()

    def follow(self, published: list[Any]) -> None:
        self._opened().watch.follow(published)

    # --- rows

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        if table.own:
            await self._link.settle()
        return await self._dialect.load_rows(self._link, table, ids) if ids else ()

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        await self._ready(table)
        if rows:
            with self._dooming() as link:
                await self._dialect.insert_rows(link, table, rows)

    async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        await self._ready(table)
        if not expect:
            at = table.columns.index(table.id_column)
            rows = list({row[at]: row for row in rows}.values())
        if rows:
            with self._dooming() as link:
                count = await self._dialect.update_rows(link, table, rows, expect)
                if count == len(rows):
                    return
                if expect:
                    raise rules.rows_changed(table.name, [row[0] for row in rows], count)
            raise rules.rows_missing(table.name, table.id_column, len(rows), count)

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        await self._ready(table)
        if ids:
            with self._dooming() as link:
                count = await self._dialect.delete_rows(link, table, ids, expect)
                if expect and count != len(ids):
                    raise rules.rows_changed(table.name, ids, count)

    async def _ready(self, table: Table) -> None:
        """Before rows are written past the session: Ensue's own, whatever its statements have set."""
        await self._sessions.leave_nothing_old(table)
        if table.own:
            await self._link.settle()

    @contextmanager
    def _dooming(self) -> Iterator[Link]:
        """After a RowConflict in its block the transaction cannot commit, whatever becomes of the error."""
        link = self._link
        try:
            yield link
        except RowConflict as error:
            link.doomed = error
            raise

    # --- the outbox

    async def take_over(self, source: str, position: int, heads: Mapping[tuple[str, int], int]) -> None:
        link = self._opened()
        await link.settle()
        await schema.take_over(link, self._dialect, source, position, heads)

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        link = self._link
        if not records:
            return
        await link.settle()
        try:
            await self._outbox.add(link, records, self._now)
        except BaseException as error:
            link.doomed = error  # a part of the records may be in
            raise
        self._published = True
