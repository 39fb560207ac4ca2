"""`Store.reading`: sessions on connections of their own, in read-only transactions on one state of the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from ensue.errors import EnsueError
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.pool import Pool

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ensue.stores.sessions import ReadingSession


@asynccontextmanager
async def reading(pool: Pool, dialect: Dialect, engines: Engines) -> AsyncIterator[AsyncSession]:
    """A session on what is committed when it first asks. Raises UsageError when it tries to write."""
    from ensue.stores.sessions import ReadingSession, step_session

    link = await pool.begin(dialect.read_only)
    try:
        session = step_session(engines.connect(link), ReadingSession)
        sync = cast("ReadingSession", session.sync_session)
        try:
            yield session
            sync.check_unchanged()
        except BaseException as error:
            ours = dialect.refused_write(error) or link.behind(error)
            if ours is not None and not isinstance(error, EnsueError):
                raise ours from error
            raise
        finally:
            cancelled = await link.rollback_to_end()
            sync.end()
            if cancelled is not None:
                raise cancelled
    finally:
        pool.give(link)
