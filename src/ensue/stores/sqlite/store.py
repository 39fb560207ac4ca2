"""`SqliteStore`: the `Store` port on one SQLite file."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from ensue.embedded.connection import BUSY_TIMEOUT_S, connect, parse_sqlite_url
from ensue.embedded.wakeup import Wakeup
from ensue.message import OutboxRecord
from ensue.ports import Capabilities, Table
from ensue.stores import rules, tables
from ensue.stores.identity import Identity, check_ends, epoch_of, new_epoch_name
from ensue.stores.sqlite import outbox, schema
from ensue.stores.sqlite.file import StoreFile
from ensue.stores.sqlite.readers import Readers, Snapshots
from ensue.stores.sqlite.row_reader import SqliteRows
from ensue.stores.sqlite.transaction import SqliteTransaction
from ensue.stores.sqlite.writer import Writer

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")

#: The wake-up key of this store, out of the way of those of a log that shares the file (row ids).
CHANGED = 0xE5_0E_00_01
DURABLE = ("FULL", "EXTRA")


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """What is there between open and close."""

    writer: Writer
    snapshots: Snapshots
    readers: Readers
    wakeup: Wakeup

    def wake(self) -> None:
        """Somebody may wait for what was committed."""
        self.wakeup.notify((CHANGED,))


class SqliteStore:
    """A service's database in one SQLite file; several processes may open it at once.

    url: `sqlite:///relative.db` or `sqlite:////absolute.db`; `?synchronous=FULL` (default: a commit survives a power
    cut), NORMAL or OFF (it survives the kill of any process). `sqlite://` is a database that is gone at close.
    now: the database's clock, epoch seconds. busy_timeout_s: how long a step waits while another process writes.
    Belongs to the event loop in which it was opened.
    """

    def __init__(
        self,
        url: str,
        service: str,
        *,
        now: Callable[[], float] = time.time,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        path, options = parse_sqlite_url(url)
        self.service = service
        self._file = StoreFile(path, service)
        self._synchronous = "OFF" if self._file.temporary else options.get("synchronous", "FULL")
        self._now = now
        self._busy_timeout_s = busy_timeout_s
        self._opened: _Opened | None = None
        self._identity = Identity(service, "", 0)
        self._seen = 0
        self.capabilities = Capabilities(
            survives_restart=not self._file.temporary,
            several_processes=not self._file.temporary,
            power_loss_safe=self._synchronous in DURABLE,
            takes_over=True,
        )

    # --- its life

    async def exists(self) -> bool:
        return self._opened is not None if self._file.temporary else schema.exists_in_file(self._file.path)

    async def open(self) -> None:
        if self._opened is not None:
            return
        path = self._file.make()
        async with AsyncExitStack() as opening:
            opening.callback(self._file.remove)
            connection = connect(path, synchronous=self._synchronous)
            opening.callback(connection.close)
            writer = Writer(
                connection, path, f"store of {self.service}", self._synchronous, busy_timeout_s=self._busy_timeout_s
            )
            snapshots = Snapshots(path)
            opening.callback(snapshots.close)
            if not await snapshots.read(schema.exists):
                await writer.run(lambda connection: schema.create_missing(connection, self.service))
            await snapshots.read(lambda connection: schema.check(connection, self.service, path))
            self._identity = await snapshots.read(schema.identity)
            wakeup = Wakeup(None if self._file.temporary else path)
            await wakeup.open()
            opening.pop_all()  # all went well: it stays open
        self._opened = _Opened(writer, snapshots, Readers(path), wakeup)
        self._file.remember()
        self._seen = wakeup.sequence(CHANGED)

    async def close(self) -> None:
        opened = self._opened
        if opened is None:
            return
        try:
            await opened.writer.close()  # waits for the step that is open
        except BaseException:  # who is cancelled while it waits may never come again: nobody need wake this process
            await opened.wakeup.close()
            raise
        self._opened = None
        opened.readers.close()
        opened.snapshots.close()
        await opened.wakeup.close()
        self._file.remove()

    async def now(self) -> float:
        opened = self._open()
        self._file.check()
        await opened.snapshots.read(schema.exists)
        return self._now()

    async def create_tables(self, metadata: MetaData, *, dry_run: bool = False) -> Sequence[str]:
        if dry_run:
            async with self.reading() as session:
                return await (await session.connection()).run_sync(tables.missing, metadata, create=False)
        async with self.transaction() as transaction:
            return await (await transaction.session.connection()).run_sync(tables.missing, metadata, create=True)

    async def make_own(self, own: Sequence[Table]) -> None:
        await self._open().writer.run(lambda connection: schema.make(connection, own))

    @property
    def source(self) -> str:
        """See the port. Another process may begin a new epoch: known here after the next `outbox_after`."""
        return self._identity.source

    async def new_epoch(self, published_through: int, ends: str) -> str:
        def begin(connection: sqlite3.Connection) -> Identity:
            check_ends(self.service, schema.identity(connection).epoch, epoch_of(ends))
            outbox.begin_epoch(connection, new_epoch_name(), published_through)
            opened.writer.tail.forget()
            return schema.identity(connection)

        opened = self._open()
        self._identity = await opened.writer.run(begin)
        opened.wake()
        return self._identity.source

    def transaction(
        self, *, upkeep: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[SqliteTransaction]:
        opened = self._open()
        if upkeep:
            self._file.check()
        return SqliteTransaction(opened.writer, opened.wake, self._now, durable=not upkeep)

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self._open().readers.session()

    def rows(self) -> SqliteRows:
        return SqliteRows(self._open().snapshots)

    # --- the relay's side

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        opened = self._open()
        self._seen = opened.wakeup.sequence(CHANGED)  # before looking: what comes after it ends the next wait
        return await self._outbox(lambda connection, begin: outbox.after(connection, max(position, begin), limit))

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        found: list[OutboxRecord] = []

        def look(connection: sqlite3.Connection, begin: int) -> outbox.Window:
            return outbox.window(connection, topic, partition, max(after, begin), through, limit - len(found))

        while after < through and len(found) < limit:
            window = await self._outbox(look)
            found += window.records
            after = window.through
            await asyncio.sleep(0)  # a rare partition of a long outbox takes many windows: let others in
        return found

    async def outbox_heads(self) -> Mapping[tuple[str, int], int]:
        return await self._outbox(lambda connection, begin: outbox.heads(connection))

    async def _outbox(self, work: Callable[[sqlite3.Connection, int], T]) -> T:
        """Call `work` with what this source's history begins after, and keep up with a new epoch."""

        def read(connection: sqlite3.Connection) -> T:
            self._identity = identity = schema.identity(connection)
            return work(connection, identity.published_from)

        return await self._open().snapshots.read(read)

    async def outbox_wait(self, timeout_s: float) -> None:
        self._seen = await self._open().wakeup.wait(CHANGED, self._seen, timeout_s)

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        return await self._open().writer.run(
            lambda connection: outbox.prune(connection, before_s, through, limit), durable=False
        )

    async def warnings(self) -> Sequence[str]:
        return ()

    # ---

    def _open(self) -> _Opened:
        if self._opened is None:
            raise rules.store_not_open("", self.service)
        return self._opened
