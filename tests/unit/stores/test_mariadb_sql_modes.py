"""Whatever sql_mode a server is set to, what goes in comes out, and a value stays a value."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from servers import MariaDbServer
from sqlalchemy import Column, LargeBinary, MetaData, String, text
from sqlalchemy import Table as SqlTable

from ensue.adapters import make_store
from ensue.conformance.store_suite import METADATA, SERVICE, Account
from ensue.engine.books import Books
from ensue.errors import UsageError
from ensue.message import DeadLetter, DeadLetterState, OutboxRecord, Partition, StoredResponse
from ensue.ports import Store, Table
from ensue.stores.mariadb.url import parse

MODES = [
    "NO_BACKSLASH_ESCAPES", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES", "ANSI", "IGNORE_SPACE", "PIPES_AS_CONCAT",
    "PAD_CHAR_TO_FULL_LENGTH", "EMPTY_STRING_IS_NULL", "ORACLE", "MSSQL", "TRADITIONAL", "HIGH_NOT_PRECEDENCE",
    "NO_UNSIGNED_SUBTRACTION", "SIMULTANEOUS_ASSIGNMENT", "NO_AUTO_VALUE_ON_ZERO", "ONLY_FULL_GROUP_BY", "",
]  # fmt: skip
VALUES = [
    "", "plain", "O'Hara", "''", '"quoted"', "back\\slash", "end\\", "\\'", "', (select 1)) -- ", "'; select 1; -- ",
    "nul\0zero", "\x1a", "line\nfeed\r\t", "%s %d %%", "`?`", "\U0001f600 é ö 漢", " padded ", "a || b",
]  # fmt: skip
RAW = [*[each.encode() for each in VALUES], bytes(range(256)), b"\xbf\x5c\x27\xbf\x27"]
metadata = MetaData()
notes = SqlTable(
    "notes",
    metadata,
    Column("id", String(50), primary_key=True),
    Column("note", String(50)),
    Column("raw", LargeBinary),
)
NOTES = Table("notes", ("id", "note", "raw"), "id")


@pytest.fixture(params=MODES, ids=lambda mode: mode or "none")
def store(request: pytest.FixtureRequest, mariadb_server: MariaDbServer) -> Iterator[Store]:
    before = mariadb_server.sql("SELECT @@global.sql_mode")
    mariadb_server.drop("modes")
    url = mariadb_server.url("modes")
    mariadb_server.sql(f"SET GLOBAL sql_mode = '{request.param}'")
    try:
        yield make_store(url, SERVICE)
    finally:
        mariadb_server.sql(f"SET GLOBAL sql_mode = '{before}'")


async def test_every_value_comes_out_as_it_went_in(store: Store) -> None:
    books = Books(store, SERVICE)
    await store.open()
    try:
        await store.create_tables(metadata)
        rows: list[tuple[str, str | None, bytes]] = [
            (f"{number}{each}", each, raw) for number, (each, raw) in enumerate(zip(VALUES, RAW, strict=False))
        ]
        rows.append(("raw", None, RAW[-1]))
        records = [OutboxRecord("orders", 0, each, raw, raw) for each in VALUES for raw in RAW]
        place = Partition("s", "orders", 0)
        letters = [
            DeadLetter(place, 1, each, 1, 0, each, raw, raw, DeadLetterState.DEAD, 1, 0.0, each, each, 0.0)
            for each, raw in zip(VALUES, RAW, strict=False)
        ]
        async with store.transaction() as step:
            await step.insert_rows(NOTES, rows)
            await step.update_rows(NOTES, rows)
            await step.session.execute(
                notes.insert(), [{"id": f"s{key}", "note": note, "raw": raw} for key, note, raw in rows]
            )
            await step.outbox_add(records)
            checkpoint = await books.checkpoint(place)
            await books.add_letters(step, checkpoint, letters)
            await books.save_checkpoint(step, place, checkpoint)
            for each, raw in zip(VALUES, RAW, strict=False):
                await books.keep_answer(step, StoredResponse(f"k{each}", each[:9], 200, {"x": each}, raw))
        async with store.transaction() as step:
            assert sorted(map(tuple, await step.load_rows(NOTES, [row[0] for row in rows]))) == sorted(rows)
            for each, raw in zip(VALUES, RAW, strict=False):
                found = await books.answer(step, f"k{each}")
                assert found is not None
                assert (found.headers, found.body) == ({"x": each}, raw)
            for key, note, raw in rows:
                query = notes.select().where(notes.c.id == f"s{key}", notes.c.raw == raw)
                assert [tuple(row) for row in await step.session.execute(query)] == [(f"s{key}", note, raw)]
        sent = await store.outbox_after(0, 1000)
        assert [(each.key, each.envelope, each.data) for each in sent] == [
            (each.key, each.envelope, each.data) for each in records
        ]
        for letter, left in zip(letters, await books.letters(), strict=True):
            assert (left.source, left.key, left.envelope, left.data) == (
                letter.source, letter.key, letter.envelope, letter.data,
            )  # fmt: skip
        assert await books.heartbeat("w'\\", 10.0, ["l'\\"], [])
    finally:
        await store.close()


async def test_a_step_that_takes_the_backslash_away_is_refused_and_its_connection_dropped(
    mariadb_server: MariaDbServer,
) -> None:
    store: Any = make_store(mariadb_server.url("modes_within") + "?pool_size=5", SERVICE)
    await store.open()
    await store.create_tables(METADATA)
    for then in ("session", "outbox", "nothing"):
        with pytest.raises(UsageError, match="NO_BACKSLASH_ESCAPES"):
            async with store.transaction() as step:
                await step.session.execute(text("SET sql_mode = 'NO_BACKSLASH_ESCAPES'"))
                if then == "session":
                    await step.session.execute(text("SELECT :value"), {"value": b"'\\"})
                elif then == "outbox":
                    await step.outbox_add([OutboxRecord("orders", 0, "a", b"'\\", b"'\\")])
        async with store.transaction() as step:
            step.session.add(Account(id=f"\\'{then}", balance=1))
    assert await store.outbox_after(0, 10) == []
    await store.close()


def test_a_character_set_in_which_a_byte_may_end_a_literal_is_refused() -> None:
    with pytest.raises(UsageError, match="charset='gbk', expected utf8mb4"):
        parse("mariadb://db.example/orders?charset=gbk")
    assert parse("mariadb://db.example/orders?charset=utf8mb4").arguments["charset"] == "utf8mb4"
