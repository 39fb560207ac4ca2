"""`SqlStore`: the `Store` port on an SQL server, whichever it is. `PostgresStore` and `MariaDbStore` fill it in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from ensue.errors import StoreUnavailable, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Capabilities, Table
from ensue.stores import rules, tables
from ensue.stores.identity import epoch_of, new_epoch_name
from ensue.stores.sql import readers, schema, switching
from ensue.stores.sql.connections import Connections
from ensue.stores.sql.database import Database
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import Current, Outbox, OutboxContext
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.transaction import SqlTransaction
from ensue.stores.sql.wakeup import Notifier, Wakeup
from ensue.stores.sql_rows import SqlRows

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")

#: What connections are for; each has one of its own (see `connections.py`).
PURPOSES = ("steps", "readings", "relay", "heartbeat")
#: So many unsent records are told of.
UNSENT_MANY = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """What is there between open and close."""

    engines: Engines
    connections: Connections
    step_pool: Pool
    relay_pool: Pool
    heartbeat_pool: Pool
    query_pool: Pool
    notifier: Notifier
    outbox: Outbox


class SqlStore:
    """A service's database on a server; any number of processes may open it. Belongs to one event loop.

    service: whose database it is. database: what differs between databases.
    """

    capabilities = Capabilities(concurrent_writers=True, takes_over=True)

    def __init__(self, service: str, database: Database) -> None:
        self.service = service
        self._database = database
        self._dialect = database.dialect
        self._opened: Opened | None = None
        self._current = Current(service)
        self._rows = SqlRows(self.reading, database.dialect.catalog)

    # --- its life

    async def exists(self) -> bool:
        try:
            link = await self._database.connect()
        except UsageError as error:
            if error.values.get("code") in self._dialect.no_database:
                return False
            raise  # user, password, an option of the URL: it is not for want of a database
        try:
            return await schema.exists(link, self._dialect)
        finally:
            await link.close()

    async def open(self) -> None:
        if self._opened is not None:
            return
        async with AsyncExitStack() as opening:
            engines = self._database.make_engines()

            async def connect() -> Link:
                link = await self._database.connect()
                try:
                    await engines.attach(link)
                    await schema.clock(link, self._dialect)
                except BaseException:
                    link.terminate()
                    raise
                return link

            wakeup = Wakeup()
            # The last one listens, or tails the log, for as long as the store is open.
            connections = Connections(connect, self._database.pool_size - 1, PURPOSES, self._database.place)
            opening.push_async_callback(connections.close)
            pools = {each: Pool(connections, each, transactions=self._database.transactions) for each in PURPOSES}
            relay_pool = pools["relay"]
            notifier = self._database.make_notifier(relay_pool, wakeup)
            opening.push_async_callback(notifier.close)
            outbox = self._database.make_outbox(
                OutboxContext(
                    dialect=self._dialect, relay_pool=relay_pool, wakeup=wakeup, notifier=notifier,
                    service=self.service, place=self._database.place, current=self._current,
                )
            )  # fmt: skip
            try:
                await _prepare(self._database, self.service, self._current, relay_pool, outbox)
                await outbox.open()
            except Exception as error:
                if isinstance(error, UsageError) or not self._dialect.denied(error):
                    raise
                said = error.__cause__ if isinstance(error, StoreUnavailable) and error.__cause__ else error
                raise rules.not_allowed(self._database.place, self.service, str(said)) from error
            opening.pop_all()  # all went well: it stays open
        self._opened = Opened(
            engines, connections, pools["steps"], relay_pool, pools["heartbeat"], pools["readings"], notifier, outbox
        )

    async def close(self) -> None:
        opened = self._opened
        if opened is None:
            return
        await opened.step_pool.close()  # waits for the steps that are open
        self._opened = None
        await opened.outbox.close()
        await opened.notifier.close()
        for pool in (opened.query_pool, opened.heartbeat_pool, opened.relay_pool):
            await pool.close()
        await opened.connections.close()

    async def now(self) -> float:
        return await self._open().heartbeat_pool.read(lambda link: schema.clock(link, self._dialect))

    async def create_tables(self, metadata: MetaData, *, dry_run: bool = False) -> Sequence[str]:
        opened = self._open()
        if dry_run:
            async with self.reading() as session:
                return await (await session.connection()).run_sync(tables.missing, metadata, create=False)

        async def create(link: Link) -> Sequence[str]:
            connection = opened.engines.connect(link)
            try:
                return await connection.run_sync(tables.missing, metadata, create=True)
            except Exception as error:
                ours = link.behind(error)  # the server went away: whoever starts waits for it
                if ours is not None:
                    raise ours from error
                raise
            finally:
                link.holder = None

        async with opened.relay_pool.bare() as link:
            return await self._database.create_once(link, create)

    async def make_own(self, own: Sequence[Table]) -> None:
        async def all_there(link: Link) -> bool:
            return all([await schema.has(link, self._dialect, table.name) for table in own])

        async with self._open().relay_pool.bare() as link:
            if not await all_there(link):  # whoever may not make tables has had a migration do it
                await self._database.create_once(link, lambda link: schema.make(link, self._dialect, own))
        if missing := await schema.lacking(self._open().relay_pool, self._dialect):
            raise rules.not_allowed(self._database.place, self.service, ", ".join(missing))

    @property
    def source(self) -> str:
        """See the port. Another process may begin a new epoch: known here after the next `outbox_after`."""
        return self._current.identity.source

    async def new_epoch(self, published_through: int, ends: str) -> str:
        opened = self._open()

        async def begin(link: Link) -> None:
            await opened.outbox.begin_epoch(link, new_epoch_name(), published_through, epoch_of(ends))
            await self._current.refresh(link)

        await opened.relay_pool.run(begin)
        opened.notifier.announce()
        return self._current.identity.source

    def transaction(
        self, *, upkeep: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[SqlTransaction]:
        opened = self._open()
        pool = opened.heartbeat_pool if upkeep else opened.step_pool
        return SqlTransaction(pool, self._dialect, opened.engines, opened.outbox, upkeep=upkeep, snapshot=snapshot)

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        opened = self._open()
        return readers.reading(opened.query_pool, self._dialect, opened.engines)

    def rows(self) -> SqlRows:
        return self._rows

    # --- the relay's side

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        return await self._open().outbox.after(position, limit)

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        return await self._open().outbox.of(topic, partition, after, through, limit)

    async def outbox_heads(self) -> Mapping[tuple[str, int], int]:
        return await self._open().outbox.heads()

    async def outbox_wait(self, timeout_s: float) -> None:
        await self._open().outbox.wait(timeout_s)

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        return await self._open().outbox.prune(before_s, through, limit)

    async def warnings(self) -> Sequence[str]:
        outbox = self._open().outbox

        async def look(link: Link) -> Sequence[str]:
            lines = list(await self._dialect.warnings(link))
            unsent = await outbox.unsent(link, outbox.mode)
            if unsent >= UNSENT_MANY:
                lines.append(f"{unsent} records of the outbox are unsent: is the broker there, and a worker running?")
            return [*lines, *await outbox.warnings(link)]

        return await self._open().relay_pool.read(look)

    # ---

    def _open(self) -> Opened:
        if self._opened is None:
            raise rules.store_not_open("", self.service)
        return self._opened


async def _prepare(database: Database, service: str, current: Current, relay_pool: Pool, outbox: Outbox) -> None:
    """Make what is missing, check what is there."""
    dialect = database.dialect

    async def make(link: Link) -> None:
        if not await schema.exists(link, dialect):  # else another process was quicker
            await schema.create(link, dialect, service, outbox.mode)
            await outbox.prepare(link)

    async with relay_pool.bare() as link:
        if not await schema.exists(link, dialect):
            await database.create_once(link, make)
    stored = await relay_pool.run(lambda link: schema.check(link, service))
    await relay_pool.run(current.refresh)
    if stored != outbox.mode:
        await relay_pool.run(lambda link: switching.switch(link, dialect, stored, outbox))
        await relay_pool.run(current.refresh)
