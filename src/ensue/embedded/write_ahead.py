"""Copying the write-ahead log back into its database file ("checkpoint", in SQLite's words), beside the event loop."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from ensue.embedded.connection import connect
from ensue.errors import EnsueError
from ensue.texts import logger

PAGE_BYTES = 4096
#: Pages of this process's commits after which the write-ahead log is copied; SQLite's own default.
COPY_PAGES = 1000
#: A longer log is copied with writers kept out. While several processes write all the time, the log never is copied
#: to its very end, so it cannot begin again and grows for ever (measured with three writers: 170 MB after 1.5 s, and
#: 30 MB for good with this).
RESTART_PAGES = 4 * COPY_PAGES
#: For a connection that writes with its commits on the event loop: SQLite's own copying stays as a backstop only.
BACKSTOP_PAGES = 16 * COPY_PAGES
#: How long the copying waits for a moment between two writers, and how long between two looks; it waits in a thread.
#: Its own short looks rather than SQLite's busy timeout, whose pauses grow to 100 ms: busy writers leave short gaps.
_TURN_S = 2.0
_LOOK_S = 0.0002
#: Pages that a commit writes whatever its size: a row here and there, and the path to the end of a table.
_PAGES_A_COMMIT = 4

_log = logger(__name__)


class WriteAheadLog:
    """Counts what a process commits, roughly, and copies when it is due. `copy` and `close` belong to one thread."""

    def __init__(
        self,
        path: str,
        synchronous: str,
        *,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._synchronous = synchronous
        self._sleep = sleep
        self._monotonic = monotonic
        self._connection: sqlite3.Connection | None = None
        self._pages = 0

    def wrote(self, data_bytes: int) -> bool:
        """Count one commit of so many bytes; return whether it is time to `copy`."""
        self._pages += _PAGES_A_COMMIT + data_bytes // PAGE_BYTES
        return self._pages >= COPY_PAGES

    def copy(self) -> None:
        """Copy what can be copied: some milliseconds, with fsyncs. Keeps writers out only when the log got long.

        Never raises: what was committed is safe in the log, and what cannot be copied now is copied next time.
        """
        self._pages = 0
        try:
            if self._connection is None:
                self._connection = connect(self._path, synchronous=self._synchronous)
            _, pages, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages >= RESTART_PAGES:
                self._restart(self._connection)
        except (sqlite3.Error, EnsueError) as error:
            _log.warning("%s: its write-ahead log was not copied and grows until that works: %s", self._path, error)

    def _restart(self, connection: sqlite3.Connection) -> None:
        """Copy the log to its end with writers kept out, so that the next of them begins it again."""
        give_up_at = self._monotonic() + _TURN_S
        while connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]:  # 1: somebody was in the way
            if self._monotonic() > give_up_at:
                break
            self._sleep(_LOOK_S)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
