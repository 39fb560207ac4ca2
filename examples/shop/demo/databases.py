"""The services' databases as the demo sees them: read past all code of the services and of Ensue, whatever holds them.

A `Database` opens a `Reader`, which sees everything as of one moment where the database can do that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

from ensue.adapters import make_place
from shop.demo.services import SERVICES, VERSION, VIEW
from shop.demo.snapshot import CustomerState, OrderState, PaymentState, Progress, Reservations


class Reader(Protocol):
    """What can be asked of one service's database. Only what that service keeps may be asked of it."""

    def orders(self) -> dict[UUID, OrderState]:
        """The orders as the service `orders`, or the view, has them."""

    def customers(self) -> dict[UUID, CustomerState]: ...

    def reservations(self) -> Reservations: ...

    def over_limit(self) -> list[str]:
        """The customers who have more reserved than they may, in words."""

    def statuses(self) -> dict[str, int]:
        """How many orders have which status."""

    def decided(self, orders: Collection[UUID]) -> dict[UUID, str]:
        """Of these orders, the status of those that are not NEW any more."""

    def payments(self) -> dict[UUID, PaymentState]: ...

    # --- the engine's books

    def source(self) -> str: ...

    def heads(self) -> dict[tuple[str, int], int]:
        """Last position of each (topic, partition)."""

    def published(self) -> dict[str, int]:
        """How many records the outbox holds, by topic."""

    def progress(self) -> list[Progress]: ...

    def letters(self) -> dict[str, int]:
        """How many dead letters have which state."""

    def sagas(self) -> dict[str, int]:
        """How many sagas have which status."""


class Database(Protocol):
    def reading(self) -> AbstractContextManager[Reader]:
        """A reader of one moment, for a look now and then."""

    def watching(self) -> AbstractContextManager[Callable[[Collection[UUID]], dict[UUID, str]]]:
        """`Reader.decided`, each call of its own moment, for looking every few milliseconds."""


Databases = Mapping[str, Database]


def database_at(service: str, url: str) -> Database:
    """The database of a service by the URL in its settings. Drivers are imported when they are needed."""
    if service == VIEW:
        url = make_place(url, service, f"v{VERSION}").url
    scheme = urlsplit(url).scheme.partition("+")[0]
    if scheme == "sqlite":
        from shop.demo.sqlite_database import SqliteDatabase

        return SqliteDatabase(service, Path(url.removeprefix("sqlite:///")))
    if scheme in ("postgresql", "mariadb", "mysql"):
        from shop.demo.sql_servers import SqlServerDatabase

        return SqlServerDatabase(service, url)
    from shop.demo.documents import DocumentDatabase

    return DocumentDatabase(service, url)


def embedded(directory: Path) -> Databases:
    """The SQLite files in a directory, as services without settings make them."""
    return {name: database_at(name, f"sqlite:///{directory.absolute()}/{name}.db") for name in SERVICES}
