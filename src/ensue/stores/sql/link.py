"""One connection as the stores use it: fetch, execute, begin, commit, rollback, and what state it is in.

A driver's adapter subclasses `Link` with the calls of `Driver`; what its errors mean is kept by `Failures`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ensue.errors import StoreLost
from ensue.stores import rules
from ensue.stores.ending import to_end
from ensue.stores.sql.driver import Rows
from ensue.stores.sql.failures import Failures
from ensue.stores.statements import Left, Watch, Words

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import PoolProxiedConnection

#: A rollback that takes longer is given up together with its connection: the server undoes what is open.
ROLLBACK_S = 5.0
#: A commit that takes longer is given up, too, and then nobody knows its outcome: so this is long.
COMMIT_S = 60.0


class Link(Failures):
    """A connection, used by one transaction at a time.

    place: host and database, for error texts (never a password). begin_text: what opens a step's transaction here.
    restore_text: what puts back the settings of a connection inside of a transaction. words: of its database.
    """

    words: ClassVar[Words]

    def __init__(self, raw: Any, place: str, begin_text: str) -> None:
        super().__init__(raw, place)
        self.begin_text = begin_text
        self.restore_text = ""
        self.watch = Watch(self.words)
        #: Whether a transaction was begun here and has not been ended by us.
        self.begun = False
        self._process = os.getpid()
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
        left = self.watch.left is Left.ON_CONNECTION
        return not (left or self.broken or self.closed or self.in_transaction or self.given_up)

    @property
    def foreign(self) -> bool:
        """Whether this process was forked from the one that made the connection: what it sends, the other one has said
        as well."""
        return os.getpid() != self._process

    @property
    def given_up(self) -> bool:
        """Whether SQLAlchemy will not use it any more, though the driver may: a statement or a fetch was cancelled."""
        return self.fairy is not None and not self.fairy.is_valid

    # --- statements

    def check(self) -> None:
        """Raise UsageError when this transaction cannot go on and somebody caught the error that says why, or in a fork
        of the process whose it is."""
        if self.foreign:
            raise rules.forked(self.place)
        if self.ended or self.given_up:
            raise rules.cannot_commit(self.doomed or asyncio.CancelledError("a statement of its session was cancelled"))
        if self.begun and not self.in_transaction and not self.closed:  # what a closed one means, the driver says
            raise rules.ended_inside()

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

    def fresh(self) -> None:
        super().fresh()
        self.begun = False
        self.watch.begin()

    async def begin(self, text: str = "") -> None:
        self.fresh()
        await self.script(text or self.begin_text)
        self.begun = True

    async def settle(self) -> None:
        """After what a user's session has sent: raise UsageError when the transaction cannot commit any more, and put
        back what was set for the rest of it."""
        self.check()
        if self.doomed is not None:
            raise rules.cannot_commit(self.doomed) from self.doomed
        if self.watch.altered:
            async with self.lock:  # a task that a handler left behind may be in the middle of a statement
                await self.restore()
            self.watch.restored()

    async def restore(self) -> None:
        """Put back what statements of the session have set: the step's own find the connection as it was made."""
        if self.restore_text:
            await self.script(self.restore_text)

    async def commit(self) -> None:
        """Commit. Raises StoreLost when the connection breaks: then nobody knows whether it was committed."""
        self.begun = False
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

    def _outcome_unknown(self, what: str) -> StoreLost:
        return StoreLost(
            f"{self.place}: {what}, whose outcome is not known: "
            "whatever depends on it is decided by the stored checkpoint"
        )

    async def rollback(self) -> None:
        """Undo what is open. Never raises but when cancelled: a connection that cannot roll back is given up."""
        self.holder = None  # first of all: a thread of a cancelled handler may still be writing
        self.begun = False
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
        if self.foreign:
            self.broken = True
            return None
        try:
            return (await to_end(self.rollback(), ROLLBACK_S, self._given_up))[1]
        except TimeoutError:
            return None  # the server undoes what a connection leaves behind
        except asyncio.CancelledError as error:
            return error

    def _given_up(self) -> None:
        self.broken = True
        self.hang_up()

    @property
    def snapshot_text(self) -> str:
        """Opens a transaction that sees one state of the database, and is refused what was changed since."""
        return self.begin_text

    def now(self) -> float:
        """The database's clock, as last compared; seconds since the epoch."""
        return time.time() + self.clock_offset_s


def _nothing() -> None: ...


class NoLink:
    """Stands where the link does while no transaction is open, so that no call needs to ask."""

    def __getattr__(self, name: str) -> NoReturn:
        raise rules.not_open()
