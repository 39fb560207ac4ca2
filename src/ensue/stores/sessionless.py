"""What every store without SQLAlchemy sessions answers: base classes of it and of its transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from ensue.errors import UsageError
from ensue.ports import Table

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session


def _no_sessions() -> UsageError:
    return UsageError(
        "this store has no SQLAlchemy sessions: declare entities with TableRepository, and read them by `rows`"
    )


class SessionlessStore:
    async def create_tables(self, metadata: MetaData, *, dry_run: bool = False) -> Sequence[str]:
        raise _no_sessions()

    async def make_own(self, own: Sequence[Table]) -> None:
        """Nothing: a table begins with its first row."""

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise _no_sessions()

    async def warnings(self) -> Sequence[str]:
        """Nothing; a store that knows of something says so."""
        return ()


class SessionlessTransaction:
    @property
    def session(self) -> AsyncSession:
        raise _no_sessions()

    def sync_session(self) -> Session:
        raise _no_sessions()

    async def flush(self, *, forget: bool = False) -> None: ...

    def follow(self, published: list[Any]) -> None: ...
