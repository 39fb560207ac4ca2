"""Many rows at once on Redis: read in one answer, relied on row by row, and lookups that follow what has changed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio as driver
from servers import RedisServer

from ensue.errors import StoreConflict
from ensue.ports import Lookup, Table
from ensue.stores.redis import RedisStore

BY_CITY = Lookup(("city",), ("name", "id"))
PEOPLE = Table("people", ("id", "city", "name", "seen"), "id", (Lookup((), ("id",)), BY_CITY))
#: More than one command of a script has words for.
MANY = 2_300


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    url = redis_server.url(40)
    async with driver.Redis.from_url(url) as client:
        await client.flushdb()
    store = RedisStore(url, "people")
    await store.open()
    yield store
    await store.close()


def person(number: int, city: str = "Graz", seen: bytes = b"\xff\x00") -> tuple[int, str, str, bytes]:
    return number, city, f"n{number:06d}", seen


async def test_many_rows_come_as_they_are_and_those_that_are_not_there_do_not(store: RedisStore) -> None:
    rows = [person(number, seen=bytes(number % 300)) for number in range(0, MANY, 2)]
    async with store.transaction() as transaction:
        await transaction.insert_rows(PEOPLE, rows)
    asked = list(range(MANY))
    async with store.transaction() as transaction:
        assert [tuple(each) for each in await transaction.load_rows(PEOPLE, asked)] == rows
    assert [tuple(each) for each in await store.rows().get(PEOPLE, asked)] == rows


async def test_a_row_that_another_step_changes_or_makes_meanwhile_fails_the_commit(store: RedisStore) -> None:
    async with store.transaction() as transaction:
        await transaction.insert_rows(PEOPLE, [person(number) for number in range(MANY - 1)])
    for number, change in ((MANY - 2, "update_rows"), (MANY - 1, "insert_rows")):
        with pytest.raises(StoreConflict, match="people"):
            await _overtaken(store, person(number, seen=b"other"), change)
        [first] = await store.rows().get(PEOPLE, [0])
        assert tuple(first) == person(0)


async def _overtaken(store: RedisStore, row: tuple[int, str, str, bytes], change: str) -> None:
    async with store.transaction() as transaction:
        await transaction.load_rows(PEOPLE, range(MANY))
        async with store.transaction() as other:
            await getattr(other, change)(PEOPLE, [row])
        await transaction.update_rows(PEOPLE, [person(0, seen=b"mine")])


async def test_a_row_leaves_the_place_that_it_had_and_is_found_at_the_new_one(store: RedisStore) -> None:
    async with store.transaction() as transaction:
        await transaction.insert_rows(PEOPLE, [person(number) for number in range(20)])
    async with store.transaction() as transaction:
        moved = [person(number, "Linz" if number < 3 else "Graz", b"again") for number in range(20)]
        await transaction.update_rows(PEOPLE, moved)
        await transaction.delete_rows(PEOPLE, [19])
    found = {
        city: [row[0] for row in await store.rows().find(PEOPLE, BY_CITY, [city], limit=100)]
        for city in ("Linz", "Graz")
    }
    assert found == {"Linz": [0, 1, 2], "Graz": list(range(3, 19))}
    assert await store.rows().count(PEOPLE, BY_CITY, ["Graz"]) == 16
