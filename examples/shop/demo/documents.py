"""The view's database where it is no SQL database: Redis or MongoDB.

Rows are read with the plain drivers, past all code of the services and of Ensue. The engine's own books have no form
there that is meant for others, so those are asked of the store.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from ensue.adapters import make_store
from ensue.engine.books import Books
from ensue.ports import Store
from ensue.stores.redis.keys import row_key
from shop.demo.services import VERSION
from shop.demo.snapshot import CustomerState, OrderState, PaymentState, Progress, Reservations

T = TypeVar("T")
Row = Sequence[Any]
Rows = Callable[[str, Sequence[str], Sequence[str] | None], Sequence[Row]]

#: The fields of the view's two kinds of rows, in their order.
ORDER = ("order_id", "customer_id", "total", "placed_at", "status", "reason")
CUSTOMER = ("customer_id", "name", "credit_limit", "reserved")


class DocumentDatabase:
    def __init__(self, service: str, url: str) -> None:
        self._service = f"{service}@{VERSION}"
        self._url = url

    @contextmanager
    def reading(self) -> Iterator[DocumentReader]:
        rows = _redis_rows if urlsplit(self._url).scheme == "redis" else _mongodb_rows
        yield DocumentReader(
            self._service, self._url, lambda table, fields, ids: rows(self._service, self._url, table, fields, ids)
        )

    @contextmanager
    def watching(self) -> Iterator[Callable[[Collection[UUID]], dict[UUID, str]]]:
        with self.reading() as reader:
            yield reader.decided


class DocumentReader:
    """rows: of a table, by their fields: those with the ids, None: all. These databases have no snapshots, so each call
    is of its own moment.
    """

    def __init__(self, service: str, url: str, rows: Rows) -> None:
        self._service = service
        self._url = url
        self._rows = rows

    def orders(self) -> dict[UUID, OrderState]:
        return {
            UUID(key): OrderState(UUID(customer), _pounds(total), datetime.fromisoformat(placed_at), status, reason)
            for key, customer, total, placed_at, status, reason in self._rows("history_orders", ORDER, None)
        }

    def customers(self) -> dict[UUID, CustomerState]:
        return {
            UUID(key): CustomerState(name, _pounds(limit), _pounds(reserved))
            for key, name, limit, reserved in self._rows("history_customers", CUSTOMER, None)
        }

    def decided(self, orders: Collection[UUID]) -> dict[UUID, str]:
        found = self._rows("history_orders", ORDER, [each.hex for each in orders])
        return {UUID(key): status for key, _, _, _, status, _ in found if status != "NEW"}

    def statuses(self) -> dict[str, int]:
        return Counter(each.status for each in self.orders().values())

    # --- what a view does not keep

    def reservations(self) -> Reservations:
        return {}

    def over_limit(self) -> list[str]:
        return []

    def payments(self) -> dict[UUID, PaymentState]:
        return {}

    def sagas(self) -> dict[str, int]:
        return {}

    def heads(self) -> dict[tuple[str, int], int]:
        return {}

    def published(self) -> dict[str, int]:
        return {}

    # --- the engine's books

    def source(self) -> str:
        return self._ask(_source)

    def progress(self) -> list[Progress]:
        return [
            Progress(
                partition.topic, partition.number, msgspec.to_builtins(found.counters), found.watermarks,
                tuple(found.gaps),
            )
            for partition, found in self._ask(lambda store: Books(store, self._service).checkpoints()).items()
        ]  # fmt: skip

    def letters(self) -> dict[str, int]:
        found = self._ask(lambda store: Books(store, self._service).letter_totals())
        return {state.value: count for state, count in found.items()}

    def _ask(self, question: Callable[[Store], Awaitable[T]]) -> T:
        """Ask in an event loop of its own: whoever looks does so in a thread."""

        async def ask() -> T:
            store = make_store(self._url, self._service)
            await store.open()
            try:
                return await question(store)
            finally:
                await store.close()

        with asyncio.Runner() as runner:
            return runner.run(ask())


async def _source(store: Store) -> str:
    return store.source


def _redis_rows(service: str, url: str, table: str, fields: Sequence[str], ids: Sequence[str] | None) -> Sequence[Row]:
    """A table is a hash; each of its values is a row as a MessagePack list."""
    import redis

    key = f"{{ensue:{service}}}:table:{table}"
    with closing(redis.Redis.from_url(url)) as client:
        values: Any = client.hvals(key) if ids is None else client.hmget(key, [row_key(each) for each in ids])
        return [msgspec.msgpack.decode(each) for each in values if each is not None]


def _mongodb_rows(
    service: str, url: str, table: str, fields: Sequence[str], ids: Sequence[str] | None
) -> Sequence[Row]:
    """A table is a collection; a row's id is the document's."""
    import pymongo

    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url, serverSelectionTimeoutMS=5000)
    with closing(client):
        found = client.get_default_database()[table].find({} if ids is None else {"_id": {"$in": list(ids)}})
        return [[each["_id"], *(each[name] for name in fields[1:])] for each in found]


def _pounds(pence: int) -> Decimal:
    return Decimal(pence).scaleb(-2)
