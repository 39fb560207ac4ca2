"""What the parts of the Store suite share: how an adapter is made, a table of entities, records and checkpoints."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import count
from typing import Any, ClassVar, TypeVar

import pytest
import pytest_asyncio
from sqlalchemy import BigInteger, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue.codec import encode_envelope
from ensue.engine.books import Books
from ensue.errors import StoreConflict
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Envelope, OutboxRecord, Partition, StoredResponse
from ensue.ports import Capabilities, Lookup, StepTransaction, Store, Table

SERVICE = "orders"
TOPIC = "orders"
PARTITION = Partition(SERVICE, "payments", 0)
SOURCE = "payments/1"

_ids = count(1)
T = TypeVar("T")


class _Base(DeclarativeBase):
    pass


class Account(_Base):
    """The entity of the tests, as users map theirs."""

    __tablename__ = "conformance_account"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    balance: Mapped[int]


class Item(_Base):
    """An entity that is looked for."""

    __tablename__ = "conformance_item"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(64))
    rank: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[str] = mapped_column(String(64))


class Amount(_Base):
    """An entity that is looked for by what a row holds as text."""

    __tablename__ = "conformance_amount"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    amount: Mapped[Decimal | None] = mapped_column(Numeric(12, 4))


METADATA = _Base.metadata
ACCOUNTS = Table("conformance_account", ("id", "balance"), "id")
ITEMS = Table(
    "conformance_item",
    ("id", "owner", "rank", "note"),
    "id",
    (Lookup(("owner",), ("rank", "id")), Lookup((), ("rank", "id")), Lookup((), ("owner", "rank", "id"))),
)
AMOUNTS = Table("conformance_amount", ("id", "amount"), "id", (Lookup((), ("amount", "id")),), placed=("amount",))


class Undo(Exception):
    """Raised by a test inside a step, to roll it back."""


def record(data: str = "{}", *, key: str = "key", topic: str = TOPIC, partition: int = 0) -> OutboxRecord:
    """A record to publish; its envelope has an id of its own."""
    envelope = encode_envelope(Envelope(id=f"id-{next(_ids)}", type="OrderCreated", time="2024-01-01T00:00:00Z"))
    return OutboxRecord(topic, partition, key, envelope, data.encode())


def letter(key: str = "key", *, state: DeadLetterState = DeadLetterState.DEAD, number: int = 0) -> DeadLetter:
    """A message set aside in partition `number`."""
    return DeadLetter(
        Partition(SERVICE, "payments", number), offset=7, source=SOURCE, position=5, previous=3, key=key,
        envelope=b"{}", data=b'{"total":"1.00"}', state=state, attempts=2, due_at=12.5, error_type="ValueError",
        error="no such order", parked_at=1000.25,
    )  # fmt: skip


def response(key: str = "key-1") -> StoredResponse:
    return StoredResponse(key, "fingerprint", 201, {"location": "/orders/1"}, b'{"id":1}')


def positions(records: Sequence[OutboxRecord]) -> list[int]:
    return [each.position for each in records]


def texts(records: Sequence[OutboxRecord]) -> list[str]:
    return [each.data.decode() for each in records]


def check_chain(records: Sequence[OutboxRecord]) -> None:
    """Each record names the one before it in its partition; the first of each names nothing."""
    last: dict[tuple[str, int], int] = {}
    for each in records:
        place = (each.topic, each.partition)
        assert each.previous == last.get(place, 0), f"{each} does not follow on position {last.get(place, 0)}"
        assert each.position > each.previous
        last[place] = each.position


class StoreSuite:
    """Subclass it as `Test…`, say what the adapter can do, and how to make one.

    Each test runs on a fresh instance of the class and wants a database without tables. patience_s: how long something
    may take that should take milliseconds. factory, url: how another process makes a store of the same database:
    `factory(url, service)`; asked for only with capabilities.several_processes. Its fixtures `store` and `other` are
    the names of what is open in a test: keep what you make under others.
    """

    pytestmark = pytest.mark.asyncio

    capabilities: ClassVar[Capabilities]
    patience_s: float = 10.0
    factory: ClassVar[str] = "ensue.adapters:make_store"
    url: str = ""

    async def make_store(self) -> Store:
        """Return an adapter, not open, of service `orders` on this test's database.

        Called several times in a test: always the same database. Without survives_restart: the same object.
        """
        raise NotImplementedError

    # --- helpers

    def books(self, store: Store) -> Books:
        """Ensue's own rows in it, as the engine reads and writes them."""
        return Books(store, SERVICE)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        """An open store with the table of accounts."""
        store = await self.make_store()
        await store.open()
        try:
            if self.capabilities.sessions:
                await store.create_tables(METADATA)
            yield store
        finally:
            await store.close()

    @pytest_asyncio.fixture(loop_scope="function")
    async def store(self) -> AsyncIterator[Store]:
        async with self.opened() as store:
            yield store

    @pytest_asyncio.fixture(loop_scope="function")
    async def other(self, store: Store) -> AsyncIterator[Store]:
        async with self.another(store) as other:
            yield other

    @asynccontextmanager
    async def another(self, store: Store) -> AsyncIterator[Store]:
        """A second store on the same database, as another process has it; the same one where there can be no other."""
        if not self.capabilities.several_processes:
            yield store
            return
        other = await self.make_store()
        await other.open()
        try:
            yield other
        finally:
            await other.close()

    def needs(self, capability: str) -> None:
        if not getattr(self.capabilities, capability):
            pytest.skip(f"needs capabilities.{capability}")

    async def publish(self, store: Store, *records: OutboxRecord) -> Sequence[OutboxRecord]:
        self.needs("publishes")
        async with store.transaction() as transaction:
            await self.add(transaction, *records)
        return records

    async def add(self, transaction: StepTransaction, *records: OutboxRecord) -> None:
        """Publish inside a step. Without transactions an entity carries what is published: always the same one here."""
        if not self.capabilities.transactions:
            carrier = ("carrier", None, len(records), "")
            if await transaction.load_rows(ITEMS, ["carrier"]):
                await transaction.update_rows(ITEMS, [carrier])
            else:
                await transaction.insert_rows(ITEMS, [carrier])
        await transaction.outbox_add(records)

    async def leave(self, transaction: StepTransaction, trace: str) -> None:
        """Leave something in a step that is there afterwards if and only if it committed: a record, or else a row."""
        if self.capabilities.publishes and self.capabilities.transactions:
            await transaction.outbox_add([record(trace)])
        else:
            await transaction.insert_rows(ITEMS, [(trace, "trace", 0, "")])

    async def traces(self, store: Store) -> list[str]:
        if self.capabilities.publishes and self.capabilities.transactions:
            return texts(await self.everything(store))
        return [row[0] for row in await store.rows().find(ITEMS, ITEMS.lookups[0], ["trace"], limit=1000)]

    async def until_it_commits(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step again that lost a race, where stores find that out at the commit."""
        while True:
            try:
                return await step()
            except StoreConflict:
                assert not self.capabilities.locks, "a store that locks lets racing steps wait for each other"

    async def everything(self, store: Store) -> Sequence[OutboxRecord]:
        """All that is in the outbox now."""
        found: list[OutboxRecord] = []
        while batch := await store.outbox_after(found[-1].position if found else 0, 1_000_000):
            found += batch
        return found

    async def put(self, store: Store, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, in one step where a step may insert several."""
        at_once = len(rows) if self.capabilities.transactions else 1
        for begin in range(0, len(rows), at_once):
            async with store.transaction() as transaction:
                await transaction.insert_rows(table, rows[begin : begin + at_once])

    async def balance(self, store: Store, account: str = "a") -> int | None:
        async with store.transaction() as transaction:
            rows = await transaction.load_rows(ACCOUNTS, [account])
        return None if not rows else int(rows[0][1])

    async def add_letters(self, store: Store, *letters: DeadLetter) -> None:
        """Set messages aside, each in a step of its own, with the checkpoint that counts them."""
        books = self.books(store)
        for each in letters:
            async with store.transaction() as transaction:
                checkpoint = await books.checkpoint(each.partition)
                await books.add_letters(transaction, checkpoint, [each])
                await books.save_checkpoint(transaction, each.partition, checkpoint)

    async def do_everything(self, store: Store, transaction: StepTransaction) -> None:
        """Change everything a step can change."""
        books = self.books(store)
        await transaction.insert_rows(ACCOUNTS, [("a", 1)])
        if self.capabilities.publishes:
            await transaction.outbox_add([record("one"), record("two", partition=1)])
        await books.claim(transaction, [("billing", "id-1")])
        await books.keep_answer(transaction, response())
        checkpoint = Checkpoint(offset=3, watermarks={SOURCE: 2})
        await books.add_letters(transaction, checkpoint, [letter()])
        await books.save_checkpoint(transaction, PARTITION, checkpoint)

    async def check_nothing_is_there(self, store: Store) -> None:
        assert await self.everything(store) == []
        assert await store.outbox_heads() == {}
        assert await self.books(store).checkpoints() == {}
        assert await self.books(store).checkpoint(PARTITION) == Checkpoint()
        assert await self.books(store).letters() == []
        with pytest.raises(Undo):  # what is claimed to find out is given back
            async with store.transaction() as transaction:
                assert list(await transaction.load_rows(ACCOUNTS, ["a"])) == []
                assert await self.books(store).answer(transaction, "key-1") is None
                assert await self.books(store).claim(transaction, [("billing", "id-1")]) == {("billing", "id-1")}
                raise Undo
