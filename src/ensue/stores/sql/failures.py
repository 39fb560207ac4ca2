"""What failed on a connection, and what it means to the step that is on it.

Failures of the connection or of the server come out as StoreUnavailable, StoreLost or StoreConflict; what a statement
itself did wrong stays the driver's own error.
"""

from __future__ import annotations

from typing import Any

from ensue.errors import EnsueError, StoreLost, StoreUnavailable, causes
from ensue.stores.sql.driver import Driver

#: How many errors behind one are looked at for its cause.
_DEEP = 24


class Failures(Driver):
    """A driver's connection that keeps what failed on it."""

    def __init__(self, raw: Any, place: str) -> None:
        super().__init__(raw, place)
        #: Not to be used again: the connection is lost, or nobody knows what state it is in.
        self.broken = False
        #: What happened in this transaction after which it cannot commit.
        self.doomed: BaseException | None = None
        #: No statement may follow in this transaction: the server has ended it (a deadlock, say), so that one would
        #: commit by itself, or one was cancelled, and nobody knows how much of it was done.
        self.ended = False
        #: What a failure of the connection or the server in this transaction means to a step, and what was raised.
        self.noted: tuple[BaseException, EnsueError] | None = None

    def fresh(self) -> None:
        """Nothing is known against a new transaction."""
        self.doomed, self.ended, self.noted = None, False, None

    def failed(self, error: BaseException) -> None:
        """Take note of a statement's failure; raise it as ours if it came from the connection or the server."""
        if self.doomed is None:
            self.doomed = error
        ours = self.note(error)
        if ours is not None:
            raise ours from error

    def note(self, error: BaseException) -> EnsueError | None:
        """Return what a step makes of an error of this connection, and keep it; None: the statement's own fault."""
        if not isinstance(error, Exception):
            self.ended, self.doomed = True, self.doomed or error
            return None
        if isinstance(error, OSError | TimeoutError):  # the driver's; the one of a handler comes by another way
            self.broken = True
            ours: EnsueError | None = StoreLost(self._silent(error))
        else:
            ours = self.translated(error)
        if ours is not None:
            self.ended, self.noted = True, (error, ours)
        return ours

    def _silent(self, error: BaseException) -> str:
        return f"{self.place} does not answer: {error or type(error).__name__}"

    def behind(self, error: BaseException) -> EnsueError | None:
        """Return what failed in this connection if that is behind a step's error, else None.

        A handler may talk to other databases, whose errors look the same: so only what was noted here counts, or, once
        this connection is closed, what reads like that (rows that are streamed come from the driver directly).
        """
        if not isinstance(error, Exception) or isinstance(error, EnsueError):
            return None
        if self.noted is None:
            return self.translated(error) if self.closed else None
        cause, ours = self.noted
        looked: list[BaseException | None] = [error]
        for each in looked:
            if each is cause:
                return ours.again()  # that one may be behind this error itself
            if each is not None and len(looked) < _DEEP:
                looked += [getattr(each, "orig", None), each.__cause__, each.__context__]
        return None

    def interrupted(self, error: BaseException) -> StoreUnavailable | None:
        """Of Ensue's own work: what is a statement's own fault in a step is nobody's here. None: it is."""
        if isinstance(error, Exception) and self.is_interruption(error):
            return StoreUnavailable(self._silent(error))
        return None

    def translated(self, error: BaseException) -> EnsueError | None:
        """Return StoreUnavailable, StoreLost, StoreConflict or UsageError for what the database itself did; None: not
        its fault.

        Looks behind SQLAlchemy's errors, too. A handler's own OSError or TimeoutError stays what it is.
        """
        if isinstance(error, EnsueError):
            return None
        for each in causes(error):
            if self.lost(each):
                self.broken = True
            ours = self._translated(each)
            if ours is not None:
                return ours
        return None
