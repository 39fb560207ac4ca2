"""Who may send statements to a connection of the store right now: the session of the transaction that is open.

A session can outlive its step: in a task that was left running, or in the thread of a plain `def` handler that was
cancelled. The gate stands in front of each statement, so that such a one writes neither outside of a transaction nor
into somebody else's.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

from ensue.stores import rules
from ensue.stores.turns import Turn


class Gate:
    """Guards one sqlite3 connection. `lock` is held while a statement runs, since that may be in a thread."""

    __slots__ = ("_holder", "_turn", "connection", "lock", "path")

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.connection = connection
        self.path = path
        self.lock = threading.Lock()
        self._holder: object = None
        self._turn: Turn | None = None

    def begin(self, turn: Turn) -> None:
        """From now on only the transaction of this turn may open the gate, until `close`."""
        with self.lock:
            self._turn = turn

    def open(self, holder: object, turn: Turn | None = None) -> None:
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

    def lets(self, holder: object) -> bool:
        return holder is self._holder

    def check(self, holder: Any) -> None:
        """Raise UsageError unless `holder` may send a statement now. Called under the lock."""
        if holder is not self._holder or holder is None:
            raise rules.session_ended()
        if not self.connection.in_transaction:
            raise rules.ended_inside()
