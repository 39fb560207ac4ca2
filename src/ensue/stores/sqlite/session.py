"""The sessions that users see: a step's, which the step commits, and a reader's, which changes nothing."""

from __future__ import annotations

from typing import NoReturn

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from ensue.errors import UsageError


class StepSession(Session):
    """A session that is part of a transaction it does not own. Objects stay readable after the step has ended."""

    _refusal = "a handler never commits: the step does, when the handler returns"

    def begin(self, nested: bool = False) -> SessionTransaction:
        if not nested:
            raise UsageError(f"{self._refusal}; session.begin_nested() makes a savepoint")
        return super().begin(nested=True)

    def commit(self) -> NoReturn:
        raise UsageError(self._refusal)

    def rollback(self) -> NoReturn:
        raise UsageError(f"{self._refusal}; raise an error, and it rolls back")

    def close(self) -> NoReturn:
        raise UsageError(f"{self._refusal}, and closes its session")

    def reset(self) -> NoReturn:
        self.close()

    def invalidate(self) -> NoReturn:
        self.close()

    def end(self) -> None:
        """Close it for good: a later use raises."""
        super().close()


class ReadingSession(StepSession):
    _refusal = "reading() is for queries and ends by itself: open a step to write"


def step_session(connection: AsyncConnection, kind: type[StepSession] = StepSession) -> AsyncSession:
    return AsyncSession(connection, sync_session_class=kind, expire_on_commit=False, close_resets_only=False)


def plain_step_session(connection: Connection) -> StepSession:
    return StepSession(connection, expire_on_commit=False, close_resets_only=False)
