"""The sessions that users see: a step's, which the step commits, and a reader's, which changes nothing."""

from __future__ import annotations

from typing import NoReturn

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from ensue.errors import UsageError
from ensue.stores import lazy_loads


class StepSession(Session):
    """A session that is part of a transaction it does not own. Objects stay readable after the step has ended."""

    _refusal = "the step commits by itself when its block or handler ends"

    def _refuse(self, method: str, more: str = "") -> NoReturn:
        raise UsageError(f"{self._refusal}: remove {method}{more}")

    def begin(self, nested: bool = False) -> SessionTransaction:
        if not nested:
            self._refuse("begin()", "; begin_nested() makes a savepoint")
        savepoint = super().begin(nested=True)
        self.connection()  # sends it now, not with its first statement: what is published until then is inside
        return savepoint

    def commit(self) -> NoReturn:
        self._refuse("commit()")

    def rollback(self) -> NoReturn:
        self._refuse("rollback()", " and raise an error, then it rolls back")

    def close(self) -> NoReturn:
        self._refuse("close()", ", it closes its session as well")

    def reset(self) -> NoReturn:
        self.close()

    def invalidate(self) -> NoReturn:
        self.close()

    def end(self) -> None:
        """Close it for good: a later use raises."""
        super().close()


lazy_loads.refuse(StepSession)


class ReadingSession(StepSession):
    _refusal = "a query's session ends by itself and stores nothing; to write, open a step"

    def check_unchanged(self) -> None:
        """Raise UsageError when something was added, changed or deleted: it would be lost without a word."""
        for what, objects in (("added", self.new), ("changed", self.dirty), ("deleted", self.deleted)):
            names = sorted({type(each).__name__ for each in objects if what != "changed" or self.is_modified(each)})
            if names:
                raise UsageError(f"a query stores nothing, and {', '.join(names)} was {what}: open a step to write")


def step_session(connection: AsyncConnection, kind: type[StepSession] = StepSession) -> AsyncSession:
    return AsyncSession(connection, sync_session_class=kind, expire_on_commit=False, close_resets_only=False)


def plain_step_session(connection: Connection) -> StepSession:
    return StepSession(connection, expire_on_commit=False, close_resets_only=False)
