"""What a database server gives to `SqlStore`: connections, what is news there, and where its outbox is."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import Outbox, Tools
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.wakeup import News, Wakeup

T = TypeVar("T")


class Server(abc.ABC):
    """dialect: of its SQL. place: host and database, for error texts. pool_size: connections of this process.

    transactions: whether every statement is put into a transaction, for a pooler that may send each one elsewhere.
    """

    transactions = False

    def __init__(self, dialect: Dialect, place: str, pool_size: int) -> None:
        self.dialect = dialect
        self.place = place
        self.pool_size = pool_size

    @abc.abstractmethod
    async def connect(self) -> Link:
        """Return a fresh connection. Raises StoreUnavailable, UsageError (no such database, no access)."""

    @abc.abstractmethod
    def make_engines(self) -> Engines: ...

    @abc.abstractmethod
    def make_news(self, desk: Pool, wakeup: Wakeup) -> News: ...

    @abc.abstractmethod
    def make_outbox(self, tools: Tools) -> Outbox: ...

    @abc.abstractmethod
    async def create_once(self, link: Link, work: Callable[[Link], Awaitable[T]]) -> T:
        """Call `work`, which changes tables, while no other process does; `link` has no open transaction."""
