"""`MariaDbStore`: the `Store` port on MariaDB."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ensue.errors import StoreUnavailable
from ensue.stores.ending import to_end
from ensue.stores.mariadb.dialect import MariaDbDialect
from ensue.stores.mariadb.link import connect
from ensue.stores.mariadb.url import MariaDbUrl, parse
from ensue.stores.sql.database import Database
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import ROLLBACK_S, Link
from ensue.stores.sql.outbox import Outbox, OutboxContext
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.stamped import StampedOutbox
from ensue.stores.sql.store import SqlStore
from ensue.stores.sql.wakeup import Notifier, Polling, Wakeup

T = TypeVar("T")

#: How long one process waits for another that is making tables.
_CREATING_S = 60


class MariaDbStore(SqlStore):
    """A service's database on MariaDB (or MySQL), through asyncmy.

    url: `mariadb://user:password@host/database`; options: see `url.MariaDbUrl`, and `ssl_ca`, `ssl_cert`, `ssl_key`,
    `ssl_check_hostname`, `ssl_verify_cert`, `unix_socket`. connect_args: asyncmy's, besides.
    """

    def __init__(self, url: str, service: str, *, connect_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(service, _MariaDb(parse(url, connect_args)))


class _MariaDb(Database):
    dialect: MariaDbDialect

    def __init__(self, url: MariaDbUrl) -> None:
        self._url = url
        self.dialect = MariaDbDialect()
        self.place = url.place
        self.pool_size = url.pool_size

    async def connect(self) -> Link:
        return await connect(self._url)

    def make_engines(self) -> Engines:
        from ensue.stores.mariadb.alchemy import make_engines

        return make_engines()

    def make_notifier(self, relay_pool: Pool, wakeup: Wakeup) -> Notifier:
        return Polling(relay_pool, wakeup)

    def make_outbox(self, context: OutboxContext) -> Outbox:
        return StampedOutbox(context, self.dialect.stamp)

    async def create_once(self, link: Link, work: Callable[[Link], Awaitable[T]]) -> T:
        """Tables are not made in transactions here: a lock of the connection's keeps others out."""
        name = "ensue_create"
        [(got,)] = await link.fetch("SELECT GET_LOCK(CONCAT(%s, '.', DATABASE()), %s)", name, _CREATING_S)
        if not got:
            raise StoreUnavailable(f"{self.place}: another process has been making tables for {_CREATING_S} s")
        try:
            result = await work(link)
            release = link.fetch("SELECT RELEASE_LOCK(CONCAT(%s, '.', DATABASE()))", name)
            _, cancelled = await to_end(release, ROLLBACK_S, link.hang_up)
        except BaseException as error:
            link.broken = True  # its lock goes with the connection
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(f"{self.place} does not answer: {error}") from error
            raise
        if cancelled is not None:
            raise cancelled
        return result
