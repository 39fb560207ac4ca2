"""What a database on a server gives to the one store for all of them."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import Outbox, OutboxContext
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.wakeup import Notifier, Wakeup

T = TypeVar("T")


class Database(abc.ABC):
    """dialect: of its SQL. place: host and database, for error texts. pool_size: connections of this process.
    transactions: whether every statement is put into a transaction, for a pooler that may send each one elsewhere."""

    dialect: Dialect
    place: str
    pool_size: int
    transactions = False

    @abc.abstractmethod
    async def connect(self) -> Link:
        """Return a fresh connection. Raises StoreUnavailable, UsageError (no such database, no access)."""

    @abc.abstractmethod
    def make_engines(self) -> Engines: ...

    @abc.abstractmethod
    def make_notifier(self, relay_pool: Pool, wakeup: Wakeup) -> Notifier: ...

    @abc.abstractmethod
    def make_outbox(self, context: OutboxContext) -> Outbox: ...

    @abc.abstractmethod
    async def create_once(self, link: Link, work: Callable[[Link], Awaitable[T]]) -> T:
        """Call `work`, which changes tables, while no other process does; `link` has no open transaction."""
