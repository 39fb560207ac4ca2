"""One step's transaction on a connection of its own: the `StepTransaction` port."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from ensue.errors import UsageError
from ensue.message import Checkpoint, DeadLetter, OutboxRecord, Partition, StoredResponse
from ensue.ports import Table
from ensue.stores import rules
from ensue.stores.sql import checkpoints, dead_letters, once
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import Link, NoLink
from ensue.stores.sql.outbox import Outbox
from ensue.stores.sql.pool import Pool

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ensue.stores.sessions import StepSession

_NOT_OPEN: Any = NoLink()


class SqlTransaction:
    """An async context manager that gives itself. What its methods promise: see `StepTransaction`."""

    __slots__ = (
        "_async_session", "_dialect", "_engines", "_link", "_now", "_outbox", "_plain_session", "_pool", "_published",
    )  # fmt: skip

    def __init__(self, pool: Pool, dialect: Dialect, engines: Engines, outbox: Outbox) -> None:
        self._pool = pool
        self._dialect = dialect
        self._engines = engines
        self._outbox = outbox
        self._link: Link = _NOT_OPEN
        self._now = 0.0
        self._published = False
        self._async_session: AsyncSession | None = None
        self._plain_session: StepSession | None = None

    # --- how it begins and ends

    async def __aenter__(self) -> SqlTransaction:
        self._link = await self._pool.begin()
        self._now = self._link.now()
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
            await self._finish_sessions(link)
            self._check(link)
            link.holder = None
            async with link.lock:  # a task that a handler left behind may be in the middle of a statement
                cancelled = await link.commit_to_end()
        except BaseException as error:
            ours = link.behind(error)
            await self._roll_back(link)
            if ours is not None:
                raise ours from error
            raise
        self._end_sessions()
        if self._published:
            self._outbox.committed()
        if cancelled is not None:
            raise cancelled

    async def _roll_back(self, link: Link) -> None:
        cancelled = await link.rollback_to_end()
        # The thread of a cancelled handler may be inside its session: leave it alone, the gate keeps it out.
        self._plain_session = None
        self._end_sessions()
        if cancelled is not None:
            raise cancelled

    def _check(self, link: Link) -> None:
        """Refuse to commit half of something whose error was caught on the way."""
        link.check()
        if link.doomed is not None:
            raise rules.cannot_commit(link.doomed) from link.doomed
        if not link.in_transaction:
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

            self._one_session()
            self._async_session = step_session(self._engines.connect(self._link))
        return self._async_session

    def sync_session(self) -> Session:
        if self._plain_session is None:
            from ensue.stores.sessions import plain_step_session

            self._one_session()
            self._plain_session = plain_step_session(self._engines.connect_plain(self._link))
        return self._plain_session

    def _one_session(self) -> None:
        if self._link is _NOT_OPEN:
            raise rules.not_open()
        if self._async_session is not None or self._plain_session is not None:
            raise UsageError(
                "one transaction has one session: step.session (async) and sync_session() do not see each other's "
                "unsaved objects; write all handlers of one event as async def, or all as def"
            )

    @property
    def _sync(self) -> StepSession | None:
        if self._async_session is not None:
            return cast("StepSession", self._async_session.sync_session)
        return self._plain_session

    async def flush(self) -> None:
        if self._async_session is not None:
            await self._async_session.flush()
        elif self._plain_session is not None:
            from sqlalchemy.util.concurrency import greenlet_spawn

            await greenlet_spawn(self._plain_session.flush)

    async def _finish_sessions(self, link: Link) -> None:
        session = self._sync
        if session is None:
            return
        if not session.is_active:
            raise UsageError(
                "an error of a flush was caught inside the step, so half of its changes would be missing: let it pass, "
                "or flush inside `async with session.begin_nested()`"
            )
        await self.flush()  # a savepoint that was left open is part of what COMMIT commits

    def _end_sessions(self) -> None:
        session = self._sync
        self._async_session = self._plain_session = None
        if session is not None:
            session.end()

    # --- rows of entities

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Sequence[Any]]:
        return await self._dialect.load_rows(self._link, table, ids) if ids else ()

    async def insert_rows(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        await self._leave_nothing_old_in_the_session()
        if rows:
            await self._dialect.insert_rows(self._link, table, rows)

    async def update_rows(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        await self._leave_nothing_old_in_the_session()
        at = table.columns.index(table.id_column)
        last = {row[at]: row for row in rows}
        if last:
            count = await self._dialect.update_rows(self._link, table, list(last.values()))
            if count != len(last):
                raise rules.rows_missing(table.name, table.id_column, len(last), count)

    async def _leave_nothing_old_in_the_session(self) -> None:
        """Rows are written past the session: an object of it that a handler kept would bring back what was there."""
        session = self._sync
        if session is not None:
            await self.flush()
            session.expire_all()

    # --- Ensue's own

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        link = self._link
        if not records:
            return
        with _Dooming(link):
            await self._outbox.add(link, records, self._now)
        self._published = True

    async def save_checkpoint(self, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
        with _Dooming(self._link) as link:  # whoever lost the partition must not commit, whatever is made of it
            await checkpoints.save(link, self._dialect, partition, checkpoint, sources)

    async def inbox_claim(self, subscription: str, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        return await once.claim(self._link, self._dialect, subscription, messages, self._now)

    async def dead_letters_add(self, letters: Sequence[DeadLetter]) -> None:
        await dead_letters.add(self._link, self._dialect, letters)

    async def dead_letter_change(self, letter: DeadLetter) -> None:
        await dead_letters.change(self._link, self._dialect, letter)

    async def dead_letter_remove(self, ids: Sequence[int]) -> None:
        with _Dooming(self._link) as link:
            await dead_letters.remove(link, self._dialect, ids)

    async def response_load(self, key: str) -> StoredResponse | None:
        return await once.response_load(self._link, self._dialect, key)

    async def response_save(self, response: StoredResponse) -> None:
        await once.response_save(self._link, self._dialect, response, self._now)


class _Dooming:
    """After an error in its block the transaction cannot commit, whatever becomes of the error."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> Link:
        return self._link

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            self._link.doomed = error
