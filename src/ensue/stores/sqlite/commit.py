"""COMMIT where it costs least: on the event loop while the disk is quick, in a thread once it is slow.

Measured: a commit with its fsync takes 0.15 ms here. Through a thread it takes 0.1 ms more on an idle loop, and some
6 ms on a busy one, since the thread then waits for Python's interpreter lock (5 ms a turn). So the loop does it. On a
disk whose fsync takes milliseconds that would hold up everything else on the loop: then the thread is right.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ensue.embedded.threads import in_thread
from ensue.stores.ending import outlast

#: A commit that takes longer should not happen on the event loop. Below it the thread costs a busy loop more than the
#: commit does; on a machine short of processors a quick disk's commit takes 2 or 3 ms by the clock, too.
SLOW_S = 0.006
#: So many slow ones in a row make a slow disk; one alone is a checkpoint of the write-ahead log.
_SLOW_IN_A_ROW = 3
#: On a slow disk one in so many is done on the loop, to see whether it has become quick again.
_LOOK_AGAIN = 64


class Committer:
    """Commits one connection's transactions. monotonic: what the duration is measured with."""

    def __init__(self, connection: sqlite3.Connection, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._slow = 0
        self._in_thread = 0
        self._executor: ThreadPoolExecutor | None = None

    @property
    def in_thread(self) -> bool:
        """Whether the next commit goes to the thread."""
        return self._slow >= _SLOW_IN_A_ROW and self._in_thread < _LOOK_AGAIN

    async def commit(self) -> asyncio.CancelledError | None:
        """Commit; raise what SQLite raises, and then nothing is committed.

        A commit that is under way is waited for to its end. Its task was cancelled meanwhile: the error to raise once
        everything that follows from the commit is done.
        """
        if self.in_thread:
            self._in_thread += 1
            return await self._commit_in_thread()
        begun = self._monotonic()
        self._connection.execute("COMMIT")
        took = self._monotonic() - begun
        self._in_thread = 0
        # After a look back, one slow commit is enough to know that the disk still is.
        self._slow = min(self._slow + 1, _SLOW_IN_A_ROW) if took > SLOW_S else 0
        return None

    async def _commit_in_thread(self) -> asyncio.CancelledError | None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "ensue-commit")
        commit = in_thread(self._executor, lambda: self._connection.execute("COMMIT"))
        cancelled = await outlast(commit)
        commit.result()
        return cancelled

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
