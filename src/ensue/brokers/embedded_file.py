"""The file of the embedded log: two connections, write transactions that survive a cancel, and the way back to disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from ensue.brokers import embedded_sql as sql
from ensue.embedded.connection import begin_immediate, connect, is_busy, retry_while_busy, translated
from ensue.embedded.threads import in_thread
from ensue.embedded.wakeup import Wakeup
from ensue.embedded.write_ahead import BACKSTOP_PAGES, WriteAheadLog
from ensue.errors import BrokerUnavailable, UsageError
from ensue.texts import logger

T = TypeVar("T")
_log = logger(__name__)


class LogFile:
    """One process's connections to the log: one to read, one to write, used on the event loop.

    Statements take microseconds, less than a hop to a thread. Only what syncs goes to one: the commit when every
    commit syncs, and the copying of the write-ahead log into the file.
    """

    def __init__(self, path: str, synchronous: str) -> None:
        self.path = path
        self.syncs = synchronous in ("FULL", "EXTRA")
        self.wakeup = Wakeup(path)
        self._synchronous = synchronous
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._writing = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._write_ahead = WriteAheadLog(path, synchronous)
        self._written_bytes = 0
        #: Grows with each opening: row ids that were read before belong to another file.
        self.generation = 0
        self._file_id = (0, 0)
        #: From open to close, also while an opening anew has failed: the next use tries again.
        self._wanted = False

    @property
    def is_open(self) -> bool:
        return self._reader is not None

    def exists(self) -> bool:
        return os.path.exists(self.path) and os.path.getsize(self.path) > 0

    async def open(self) -> None:
        """Open the file, made when missing. Raises UsageError when it is no broker's file, or of another version."""
        if self._writer is not None:
            return
        writer = connect(self.path, synchronous=self._synchronous)
        try:
            await self._create_tables(writer)
            writer.execute(f"PRAGMA wal_autocheckpoint = {BACKSTOP_PAGES}")
            reader = connect(self.path, synchronous=self._synchronous)
        except BaseException:
            writer.close()
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ensue-broker-sync")
        self._writer, self._reader = writer, reader
        self._file_id = self._found_id()
        self.generation += 1
        self._wanted = True
        await self.wakeup.open()

    def _found_id(self) -> tuple[int, int]:
        """Which file the path leads to; (0, 0): to none."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return (0, 0)
        return found.st_dev, found.st_ino

    async def follow(self) -> bool:
        """Open the file anew, if the path leads to another one or to none by now; return whether that was so.

        Who keeps a deleted file open writes where nobody else will ever read: a restarted process finds another one.
        """
        if self._follows():
            return False
        async with self._writing:
            if self._follows():
                return True  # another task has done it
            if self.is_open:
                _log.error("%s was deleted or replaced while it was open: going on with what is there now", self.path)
                await self._close_connections()
            await self.open()
        return True

    def _follows(self) -> bool:
        """Whether nothing is to be done: the right file is open, or none should be."""
        return not self._wanted or (self.is_open and self._found_id() == self._file_id)

    async def close(self) -> None:
        """Close; an append that is under way ends first. Safe to repeat. Wakes all who wait."""
        self._wanted = False
        try:
            async with self._writing:
                await self._close_connections()
        finally:
            await self.wakeup.close()

    async def _close_connections(self) -> None:
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        thread, self._thread = self._thread, None
        if reader is None or writer is None or thread is None:
            return
        reader.close()

        def close() -> None:
            self._write_ahead.close()
            writer.close()  # the last one to close copies the write-ahead log

        try:
            await self._in_thread(thread, close)
        finally:
            thread.shutdown()

    async def query(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the read connection; it must finish its statements, so that no read transaction stays open:
        one would keep the write-ahead log from being copied and started again."""

        def attempt() -> T:
            if self._reader is None:
                raise self._not_open()
            return work(self._reader)

        try:
            return attempt()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise translated(error, self.path, BrokerUnavailable) from error
        return await retry_while_busy(attempt, self.path, unavailable=BrokerUnavailable)

    @asynccontextmanager
    async def transaction(self, wake: Sequence[int] = ()) -> AsyncIterator[sqlite3.Connection]:
        """One write transaction, committed when the block ends, then wake readers of `wake`. The block must not await.

        A cancel never leaves it open: it came before BEGIN, or the commit is waited for.
        """
        async with self._writing:
            writer, thread = self._writer, self._thread
            if writer is None or thread is None:
                raise self._not_open()
            await begin_immediate(writer, unavailable=BrokerUnavailable)
            try:
                yield writer
                if self.syncs:
                    await self._in_thread(thread, lambda: writer.execute("COMMIT"))
                else:
                    writer.execute("COMMIT")
            except sqlite3.Error as error:
                raise translated(error, self.path, BrokerUnavailable) from error
            finally:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                self.wakeup.notify(wake)  # also when cancelled in the commit: it may have gone through
            written, self._written_bytes = self._written_bytes, 0
            if self._write_ahead.wrote(written):
                await self._in_thread(thread, self._write_ahead.copy)

    def wrote(self, data_bytes: int) -> None:
        """Note how much the current transaction adds to the write-ahead log, as near as it needs to be."""
        self._written_bytes += data_bytes

    async def _in_thread(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Run `work` beside the event loop. When cancelled, wait for its end first: a thread cannot be cancelled."""
        future = in_thread(thread, work)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled from future.exception()
        return future.result()

    def _not_open(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"the broker {self.path} is not open: call open() first", path=self.path)

    async def _create_tables(self, writer: sqlite3.Connection) -> None:
        """Make the tables in a new file; of several processes that find it new at once, one does."""
        await begin_immediate(writer, unavailable=BrokerUnavailable)
        try:
            application = writer.execute("PRAGMA application_id").fetchone()[0]
            version = writer.execute("PRAGMA user_version").fetchone()[0]
            if application == 0 and not writer.execute(sql.COUNT_TABLES).fetchone()[0]:
                for statement in sql.SCHEMA:
                    writer.execute(statement)
                writer.execute(f"PRAGMA application_id = {sql.APPLICATION_ID}")
                writer.execute(f"PRAGMA user_version = {sql.VERSION}")
            elif application != sql.APPLICATION_ID:
                raise UsageError(f"{self.path} is a database of something else: give the broker a file of its own")
            elif version != sql.VERSION:
                raise UsageError(
                    f"{self.path} has tables of version {version}, expected {sql.VERSION}: use the Ensue that made "
                    "it, or let every service drain it and then move the file away",
                    expected=sql.VERSION,
                    found=version,
                )
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(error, self.path, BrokerUnavailable) from error
        finally:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
