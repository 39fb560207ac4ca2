"""One connection as the stores use it: fetch, execute, begin, commit, rollback, and what state it is in.

A driver's adapter subclasses `Link` with a handful of calls. Failures of the connection or of the server come out as
StoreUnavailable or StoreConflict; what a statement itself did wrong stays the driver's own error.
"""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ensue.errors import EnsueError, StoreUnavailable
from ensue.stores import rules
from ensue.stores.ending import to_end
from ensue.stores.sql.failures import causes

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import PoolProxiedConnection

Rows = Sequence[Sequence[Any]]

#: A rollback that takes longer is given up together with its connection: the server undoes what is open.
ROLLBACK_S = 5.0
#: A commit that takes longer is given up, too, and then nobody knows its outcome: so this is long.
COMMIT_S = 60.0
#: How many errors behind one are looked at for its cause.
_DEEP = 24


class Link(abc.ABC):
    """A connection, used by one transaction at a time.

    place: host and database, for error texts (never a password). begin_text: what opens a step's transaction here.
    """

    def __init__(self, raw: Any, place: str, begin_text: str) -> None:
        self.raw = raw
        self.place = place
        self.begin_text = begin_text
        #: Not to be used again: the connection is lost, or nobody knows what state it is in.
        self.broken = False
        #: What happened in this transaction after which it cannot commit.
        self.doomed: BaseException | None = None
        #: No statement may follow in this transaction: the server has ended it (a deadlock, say), so that one would
        #: commit by itself, or one was cancelled, and nobody knows how much of it was done.
        self.ended = False
        #: What a failure of the connection or the server in this transaction means to a step, and what was raised.
        self.noted: tuple[BaseException, EnsueError] | None = None
        #: Which SQLAlchemy connection may send statements now; None: none may.
        self.holder: object = None
        #: Held while a session's statement runs, since that may have been sent by a thread.
        self.lock = asyncio.Lock()
        #: SQLAlchemy's view of this connection, see `engines.py`.
        self.fairy: PoolProxiedConnection | None = None
        self.detach: Callable[[], None] = _nothing
        #: What to add to this machine's clock to get the database's, seconds.
        self.clock_offset_s = 0.0

    # --- its state

    @property
    def usable(self) -> bool:
        """Whether another transaction may have it; the server is not asked."""
        return not (self.broken or self.closed or self.in_transaction or self.given_up)

    @property
    def given_up(self) -> bool:
        """Whether SQLAlchemy will not use it any more, though the driver may: a statement or a fetch was cancelled."""
        return self.fairy is not None and not self.fairy.is_valid

    # --- statements

    def fresh(self) -> None:
        """Nothing is known against a new transaction."""
        self.doomed, self.ended, self.noted = None, False, None

    def check(self) -> None:
        """Raise UsageError when this transaction cannot go on and somebody caught the error that says why."""
        if self.ended or self.given_up:
            raise rules.cannot_commit(self.doomed or asyncio.CancelledError("a statement of its session was cancelled"))

    async def fetch(self, text: str, *values: Any) -> Rows:
        """Return all rows of a statement in the driver's own placeholder style."""
        self.check()
        try:
            return await self._fetch(text, values)
        except BaseException as error:
            self.failed(error)
            raise

    async def execute(self, text: str, *values: Any) -> int:
        """Run a statement, return how many rows it changed (MariaDB: found)."""
        self.check()
        try:
            return await self._execute(text, values)
        except BaseException as error:
            self.failed(error)
            raise

    async def script(self, text: str) -> None:
        """Run statements without parameters in one round trip."""
        self.check()
        try:
            await self._script(text)
        except BaseException as error:
            self.failed(error)
            raise

    # --- the transaction

    async def begin(self, text: str = "") -> None:
        self.fresh()
        await self.script(text or self.begin_text)

    async def commit(self) -> None:
        """Commit. Raises StoreUnavailable when the connection breaks: then nobody knows whether it was committed."""
        try:
            await self._commit()
        except BaseException as error:
            if self.lost(error):
                self.broken = True
                raise self._outcome_unknown(f"the connection broke during a commit ({error})") from error
            self.failed(error)
            raise

    async def commit_to_end(self) -> asyncio.CancelledError | None:
        """Commit whatever happens; return the cancellation that came meanwhile. Raises what `commit` does."""
        try:
            return (await to_end(self.commit(), COMMIT_S, self._given_up))[1]
        except TimeoutError as error:
            raise self._outcome_unknown(f"a commit was not answered for {COMMIT_S:g} s") from error

    def _outcome_unknown(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.place}: {what}, whose outcome is not known: "
            "whatever depends on it is decided by the stored checkpoint"
        )

    async def rollback(self) -> None:
        """Undo what is open. Never raises but when cancelled: a connection that cannot roll back is given up."""
        self.holder = None  # first of all: a thread of a cancelled handler may still be writing
        if self.broken:
            return
        try:
            async with self.lock:
                if not self.broken and self.in_transaction:
                    await self._rollback()
        except BaseException as error:
            self.broken = True
            if isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception):
                raise

    async def rollback_to_end(self) -> asyncio.CancelledError | None:
        """Undo what is open whatever happens; return the cancellation that came meanwhile, to be raised."""
        try:
            return (await to_end(self.rollback(), ROLLBACK_S, self._given_up))[1]
        except TimeoutError:
            return None  # the server undoes what a connection leaves behind
        except asyncio.CancelledError as error:
            return error

    def _given_up(self) -> None:
        self.broken = True
        self.hang_up()

    # --- failures

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
            ours: EnsueError | None = self._silent(error)
        else:
            ours = self.translated(error)
        if ours is not None:
            self.ended, self.noted = True, (error, ours)
        return ours

    def _silent(self, error: BaseException) -> StoreUnavailable:
        return StoreUnavailable(f"{self.place} does not answer: {error or type(error).__name__}")

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
                return type(ours)(str(ours), **ours.values)  # a new one: that one may be behind this error itself
            if each is not None and len(looked) < _DEEP:
                looked += [getattr(each, "orig", None), each.__cause__, each.__context__]
        return None

    def interrupted(self, error: BaseException) -> StoreUnavailable | None:
        """Of Ensue's own work on its desk: what is a statement's own fault in a step is nobody's here. None: it is."""
        if isinstance(error, Exception) and self.is_interruption(error):
            return self._silent(error)
        return None

    def translated(self, error: BaseException) -> EnsueError | None:
        """Return StoreUnavailable, StoreConflict or UsageError for what the database itself did; None: not its fault.

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

    def now(self) -> float:
        """The database's clock, as last compared; seconds since the epoch."""
        return time.time() + self.clock_offset_s

    # --- what a driver gives

    @property
    @abc.abstractmethod
    def in_transaction(self) -> bool: ...

    @property
    @abc.abstractmethod
    def closed(self) -> bool: ...

    @abc.abstractmethod
    async def _fetch(self, text: str, values: Sequence[Any]) -> Rows: ...

    @abc.abstractmethod
    async def _execute(self, text: str, values: Sequence[Any]) -> int: ...

    @abc.abstractmethod
    async def _script(self, text: str) -> None: ...

    @abc.abstractmethod
    async def _commit(self) -> None: ...

    @abc.abstractmethod
    async def _rollback(self) -> None: ...

    @abc.abstractmethod
    def lost(self, error: BaseException) -> bool:
        """Whether this error means that the connection is gone."""

    @abc.abstractmethod
    def is_interruption(self, error: Exception) -> bool:
        """Whether the server gave a statement up (a time limit, an operator, an internal error) and goes on."""

    @abc.abstractmethod
    def _translated(self, error: BaseException) -> EnsueError | None: ...

    @abc.abstractmethod
    async def close(self) -> None:
        """Say good-bye to the server."""

    @abc.abstractmethod
    def terminate(self) -> None:
        """Hang up at once; safe to repeat."""

    def hang_up(self) -> None:
        """Make what waits for the server fail; `terminate` comes after it."""
        self.terminate()


def _nothing() -> None: ...


class NoLink:
    """Stands where the link does while no transaction is open, so that no call needs to ask."""

    def __getattr__(self, name: str) -> NoReturn:
        raise rules.not_open()
