"""Who may send statements to a connection of the store right now: the session of the transaction that is open.

A session can outlive its step: in a task that was left running, or in the thread of a plain `def` handler that was
cancelled. The gate stands in front of each statement, so that such a one writes neither outside of a transaction nor
into somebody else's.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from ensue.errors import UsageError
from ensue.stores import rules
from ensue.stores.sqlite.words import WORDS
from ensue.stores.statements import Watch
from ensue.stores.write_lock import LockHolder

_TEMPORARY = "SELECT type, name FROM sqlite_temp_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
#: How long the event loop waits for a statement that runs in a thread, before it is interrupted (again).
_LOOKS_S = 0.001


class Gate:
    """Guards one sqlite3 connection. `lock` is held while a statement runs or is read, since that may be in a thread.

    doomed: what happened in the transaction after which it cannot commit.
    """

    __slots__ = ("_cursors", "_holder", "_process", "_turn", "connection", "doomed", "lock", "path", "watch")

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.connection = connection
        self.path = path
        self.lock = threading.Lock()
        self.watch = Watch(WORDS)
        self.doomed: Exception | None = None
        self._process = os.getpid()
        self._holder: object = None
        self._turn: LockHolder | None = None
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()  # what was run here, as long as somebody has its result

    def begin(self, turn: LockHolder) -> None:
        """From now on only the transaction of this turn may open the gate, until `close`."""
        with self.lock:
            self._turn = turn
            self.fresh()

    def fresh(self) -> None:
        """Nothing is known against a new transaction."""
        self.doomed = None
        self.watch.begin()

    def open(self, holder: object, turn: LockHolder | None = None) -> None:
        """Let the statements of this SQLAlchemy connection through, and no others.

        turn: of the transaction that asks. Raises UsageError when it is over: a thread may ask late, when the
        connection is in somebody else's transaction.
        """
        with self.lock:
            if turn is not self._turn:
                raise rules.session_ended()
            self._holder = holder

    def close(self) -> None:
        """Wait for the statement that runs, if one does, and let no more through."""
        with self.lock:
            self._holder = self._turn = None

    def stop(self) -> None:
        """As `close`, but what runs is ended, and no row can be read any more: before a rollback. That is done on the
        event loop, and would wait there for a statement that may take for ever in the thread of a cancelled handler.
        """
        while not self.lock.acquire(timeout=_LOOKS_S):
            self.connection.interrupt()  # again and again: the statement may only be about to begin
        try:
            self._holder = self._turn = None
            # An interruption lasts until no statement is half read, and would meet the ROLLBACK, too.
            for cursor in list(self._cursors):
                sqlite3.Cursor.close(cursor)
            self._cursors.clear()
        finally:
            self.lock.release()

    def lets(self, holder: object) -> bool:
        return holder is self._holder

    def check(self, holder: Any) -> None:
        """Raise UsageError unless `holder` may send a statement now. Called under the lock."""
        if holder is not self._holder or holder is None:
            raise rules.session_ended()
        self.check_going_on()

    @property
    def foreign(self) -> bool:
        """Whether this process was forked from the one that made the connection, in whose transaction it would be."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        if self.foreign:
            raise rules.forked(self.path)

    def check_going_on(self) -> None:
        """Raise UsageError when the transaction was ended inside of it: what follows would commit by itself."""
        self.check_process()
        if not self.connection.in_transaction:
            raise rules.ended_inside()

    def run(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Send a statement of the session. Called under the lock, after `check`."""
        watch = self.watch
        try:
            effect = watch.before(arguments[0])
        except UsageError as error:
            self.doomed = error
            raise
        self._cursors.add(call.__self__)  # type: ignore[attr-defined]  # the method of a cursor
        call(*arguments)
        watch.after(effect)

    def settle(self) -> None:
        """After what a user's session has sent: raise UsageError when the transaction cannot commit any more, and take
        back what was set for the rest of it."""
        self.check_going_on()
        if self.doomed is not None:
            raise rules.cannot_commit(self.doomed) from self.doomed
        if self.watch.altered:
            with self.lock:
                self._restore()

    def _restore(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA defer_foreign_keys = OFF")
        for kind, name in execute(_TEMPORARY).fetchall():
            quoted = '"' + name.replace('"', '""') + '"'
            execute(f"DROP {kind} IF EXISTS temp.{quoted}")
        self.watch.restored()
