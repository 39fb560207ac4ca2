"""Stamps: one connection at a time moves the counter, and what a stamp names is waited for, never passed over."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from servers import PostgresServer
from tests.unit.stores.test_postgres_tail_order import follow, opened, publish

from ensue.conformance.store_suite import texts
from ensue.message import OutboxRecord
from ensue.stores.postgres import PostgresStore
from ensue.stores.postgres.stamps import Reader, Window
from ensue.stores.postgres.tail_log import Entry, Place
from ensue.stores.postgres.tail_stamp import Overtaken, Stamper

INSERT = (
    "INSERT INTO ensue_outbox (topic, partition_no, record_key, envelope, data, written_at) "
    "VALUES ('orders', 0, 'key', '{}', %s, 1) RETURNING id"
)


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"tail_{uuid.uuid4().hex[:12]}"
    yield postgres_server.url(name)
    postgres_server.drop(name)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    connection: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(url, autocommit=True)
    try:
        yield connection
    finally:
        await connection.close()


def entries(first: int, count: int) -> list[Entry]:
    return [
        Entry(Place(first, number), first + number, OutboxRecord("orders", number % 2, "key", b"{}", b"x"))
        for number in range(1, count + 1)
    ]


async def test_of_two_that_stamp_the_same_entries_the_second_changes_nothing(url: str) -> None:
    async with opened(f"{url}?outbox=wal"), connected(url) as one, connected(url) as two:
        first, second = Stamper(one), Stamper(two)
        await first.load()
        await second.load()
        batch = entries(1000, 5)
        assert [each.position for each in await first.keep(batch)] == [1, 2, 3, 4, 5]
        with pytest.raises(Overtaken):
            await second.keep(entries(1000, 6))
        async with one.cursor() as cursor:
            await cursor.execute("SELECT last, ids, previous FROM ensue_stamp")
            assert await cursor.fetchall() == [(5, [1001, 1002, 1003, 1004, 1005], [0, 0, 1, 2, 3])]
        await second.load()
        [sixth] = await second.keep(entries(1000, 6))
        assert (sixth.position, sixth.previous) == (6, 4)
        assert await second.keep(entries(1000, 6)) == [], "what is sent again is passed over"


async def look(store: PostgresStore, after: int = 0) -> Window:
    assert store._opened is not None
    relay_pool, reader = store._opened.relay_pool, Reader(store._dialect.text)

    async def window(link: Any) -> Window:
        now = await reader.now(link)
        return await reader.window(link, now, after, now.last_position, 100)

    return await relay_pool.read(window)


async def test_a_stamped_row_that_cannot_be_seen_yet_is_waited_for_and_one_that_is_gone_is_not(url: str) -> None:
    """The server tells the log's readers of a commit before others see its rows."""
    async with opened(f"{url}?outbox=wal") as store, connected(url) as hidden, connected(url) as other:
        async with hidden.transaction():
            [first] = await (await hidden.execute(INSERT, (b"1",))).fetchone()  # type: ignore[misc]
            [second] = await (await other.execute(INSERT, (b"2",))).fetchone()  # type: ignore[misc]
            await other.execute(
                "INSERT INTO ensue_stamp (last, ids, previous) VALUES (2, %s, '{0,1}')", ([first, second],)
            )
            await other.execute("UPDATE ensue_counter SET last_position = 2")
            assert await look(store) == Window([], 0)
        found = await look(store)
        assert (texts(found.records), found.through) == (["1", "2"], 2)
        await other.execute("DELETE FROM ensue_outbox WHERE id = %s", (first,))
        assert texts((await look(store)).records) == ["2"]


async def test_two_services_share_a_database_by_schemas_of_their_own(url: str) -> None:
    async with (
        opened(f"{url}?outbox=wal&schema=one") as one,
        opened(f"{url}?outbox=wal&schema=two") as two,
    ):
        for number, store in enumerate((one, two, two)):
            await publish(store, str(number))
        assert texts(await follow(one, 1)) == ["0"]
        assert texts(await follow(two, 2)) == ["1", "2"]
