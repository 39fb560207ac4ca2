"""`PostgresStore`: the `Store` port on PostgreSQL."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ensue.errors import not_installed
from ensue.stores.postgres.dialect import PostgresDialect
from ensue.stores.postgres.handshake import quoted
from ensue.stores.postgres.listen import Listening, channel_of
from ensue.stores.postgres.polled import WAITING, PolledOutbox
from ensue.stores.postgres.url import PostgresUrl, parse
from ensue.stores.sql.database import Database
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import Outbox, OutboxContext
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.store import SqlStore
from ensue.stores.sql.wakeup import Notifier, Polling, Wakeup

T = TypeVar("T")

#: Advisory lock held while tables are made; "ensu" in ASCII.
_CREATING = 0x656E7375
_THERE = "SELECT 1 FROM pg_namespace WHERE nspname = $1"


class PostgresStore(SqlStore):
    """A service's database on PostgreSQL, through asyncpg or psycopg 3.

    url: `postgresql://user:password@host/database`, options: see `url.PostgresUrl`; everything else in the query is the
    driver's (`sslmode`, `sslrootcert`, `target_session_attrs`, ...), and so are connect_args.
    Raises UsageError for a URL that cannot be, and where the driver is not installed.
    """

    def __init__(self, url: str, service: str, *, connect_args: Mapping[str, Any] | None = None) -> None:
        parsed = parse(url, connect_args)
        try:
            importlib.import_module(parsed.driver)
        except ImportError as error:  # else the first connection would say that there is no module of that name
            raise not_installed(f"database postgresql, by {parsed.driver},", "postgres") from error
        super().__init__(service, _Postgres(parsed))


async def connect(url: PostgresUrl) -> Link:
    """Return a fresh connection, by the driver that the URL names."""
    if url.driver == "psycopg":
        from ensue.stores.postgres import psycopg_link

        return await psycopg_link.connect(url)
    from ensue.stores.postgres import asyncpg_link

    return await asyncpg_link.connect(url)


class _Postgres(Database):
    def __init__(self, url: PostgresUrl) -> None:
        self._url = url
        self.dialect = PostgresDialect()
        self.place = url.place
        self.pool_size = url.pool_size
        # asyncpg parses and runs a statement in two round trips, which a pooler may send to two servers.
        self.transactions = url.pgbouncer

    async def connect(self) -> Link:
        return await connect(self._url)

    def make_engines(self) -> Engines:
        from ensue.stores.postgres.alchemy import make_engines

        return make_engines(self._url)

    def make_notifier(self, relay_pool: Pool, wakeup: Wakeup) -> Notifier:
        if self._url.pgbouncer:
            return Polling(relay_pool, wakeup, WAITING)
        return Listening(self.connect, relay_pool, wakeup, channel_of(self._url.schema))

    def make_outbox(self, context: OutboxContext) -> Outbox:
        if self._url.outbox == "poll":
            return PolledOutbox(context)
        from ensue.stores.postgres.tail import TailedOutbox
        from ensue.stores.postgres.tail_access import make_access

        return TailedOutbox(context, make_access(self._url))

    async def create_once(self, link: Link, work: Callable[[Link], Awaitable[T]]) -> T:
        await link.begin()
        try:
            await link.fetch("SELECT pg_advisory_xact_lock($1)", _CREATING)
            # IF NOT EXISTS alone asks for the right to make one even where it is there.
            if self._url.schema and not await link.fetch(_THERE, self._url.schema):
                await link.script(f"CREATE SCHEMA IF NOT EXISTS {quoted(self._url.schema)}")
            result = await work(link)
            cancelled = await link.commit_to_end()
        except BaseException as error:
            stop = await link.rollback_to_end()
            if stop is not None:
                raise stop from error
            raise
        if cancelled is not None:
            raise cancelled
        return result
