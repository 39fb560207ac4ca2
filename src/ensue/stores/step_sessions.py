"""The session of one step, which its transaction holds: async or plain, made when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ensue.errors import UsageError
from ensue.ports import Table
from ensue.texts import logger

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from ensue.stores.sessions import StepSession

log = logger("ensue.store")


class StepSessions:
    """connect: gives SQLAlchemy's connection to the transaction. SQLAlchemy is imported with the first session."""

    __slots__ = ("_async", "_plain")

    def __init__(self) -> None:
        self._async: AsyncSession | None = None
        self._plain: StepSession | None = None

    def get(self, connect: Callable[[], AsyncConnection]) -> AsyncSession:
        if self._async is None:
            from ensue.stores.sessions import step_session

            self._one()
            self._async = step_session(connect())
        return self._async

    def get_plain(self, connect: Callable[[], Connection]) -> Session:
        if self._plain is None:
            from ensue.stores.sessions import plain_step_session

            self._one()
            self._plain = plain_step_session(connect())
        return self._plain

    def _one(self) -> None:
        if self._sync is not None:
            raise UsageError(
                "one transaction has one session: step.session (async) and sync_session() do not see each other's "
                "unsaved objects; write all handlers of one event as async def, or all as def"
            )

    @property
    def _sync(self) -> StepSession | None:
        return self._plain if self._async is None else cast("StepSession", self._async.sync_session)

    async def flush(self, *, forget: bool = False) -> None:
        """Send what is unsaved. Raises UsageError when an error of doing so was caught."""
        session = self._sync
        if session is None:
            return
        if not session.is_active:
            raise UsageError(
                "an error of a flush was caught inside the step, so half of its changes would be missing: let it pass, "
                "or flush inside `async with session.begin_nested()`"
            )
        if session.identity_map or session.new or session.deleted:
            await _spawn(session.flush)
            if forget:
                session.expunge_all()

    async def finish(self) -> None:
        """Before a commit: send what is unsaved, and tell the listeners of the user's."""
        session = self._sync
        if session is None:
            return
        await self.flush()  # a savepoint that was left open is part of what COMMIT commits
        if session.dispatch.before_commit:
            await _spawn(session.dispatch.before_commit, session)
            await self.flush()  # they may have changed something

    def end(self) -> None:
        """After a commit."""
        session = self._sync
        if session is not None:
            try:
                _tell("after_commit", session)
            finally:
                self._close()

    def _close(self) -> None:
        session = self._sync
        self._async = self._plain = None
        if session is not None:
            session.end()

    def abandon(self) -> bool:
        """After a rollback. Return whether a plain session is left alone: a cancelled handler's thread may be in it."""
        left = self._plain is not None
        self._plain = None
        session = self._sync
        if session is not None:
            try:
                _tell("after_rollback", session)
            finally:
                self._close()
        return left

    async def leave_nothing_old(self, table: Table) -> None:
        """Rows are written past the session: an object of it that a handler kept would bring back what was there."""
        session = self._sync
        if session is not None and not table.own:
            await self.flush()
            session.expire_all()


def _tell(name: str, session: StepSession) -> None:
    """Tell the user's listeners how the transaction has ended. That stays so if one of them fails: raised, its error
    would say of a committed step that it failed, so that it is done again, and hide why another one was rolled back."""
    try:
        getattr(session.dispatch, name)(session)
    except Exception:
        log.exception("a listener for %s of SQLAlchemy's Session failed; the transaction had ended before", name)


async def _spawn(call: Callable[..., Any], *arguments: Any) -> None:
    from sqlalchemy.util.concurrency import greenlet_spawn

    await greenlet_spawn(call, *arguments)
