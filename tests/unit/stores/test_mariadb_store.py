"""What MariaDB in particular does to a store: it commits what nobody asked it to, it has modes and types of its own."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest
from servers import MariaDbServer
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE, record, texts
from ensue.errors import StoreConflict, StoreUnavailable, UsageError
from ensue.ports import Table
from ensue.stores.mariadb import MariaDbStore
from ensue.stores.mariadb.rows import chunks
from ensue.tables import ANSWERS

LIMIT_S = 60.0
_numbers = count(1)


@pytest.fixture
def url(mariadb_server: MariaDbServer) -> str:
    return mariadb_server.url(f"alone_{next(_numbers)}")


async def opened(url: str) -> MariaDbStore:
    store = MariaDbStore(url, SERVICE)
    await store.open()
    await store.create_tables(METADATA)
    return store


@pytest.mark.parametrize(
    "statement",
    [
        "SET STATEMENT max_statement_time = 0.05 FOR "
        "SELECT count(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b WHERE a.seq + b.seq = 1",
        "KILL QUERY CONNECTION_ID()",
    ],
)
async def test_a_statement_that_the_server_gave_up_is_its_messages_fault(url: str, statement: str) -> None:
    store = await opened(url)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(DBAPIError, match=r"1969|1317"):
            async with store.transaction() as transaction:
                await transaction.session.execute(text(statement))
    await store.close()


async def test_a_deadlock_is_a_conflict_and_nothing_after_it_is_committed(url: str) -> None:
    """MariaDB undoes the transaction and goes on without one: what a handler does after it caught the error would be
    committed statement by statement."""
    store = await opened(url)
    async with store.transaction() as transaction:
        await transaction.insert_rows(ACCOUNTS, [("a", 0), ("b", 0)])
    both = asyncio.Barrier(2)

    async def cross(first: str, second: str) -> None:
        lock = "SELECT * FROM conformance_account WHERE id = :id FOR UPDATE"
        async with store.transaction() as transaction:
            session = transaction.session
            await session.execute(text(lock), {"id": first})
            await both.wait()
            try:
                await session.execute(text(lock), {"id": second})
            except OperationalError:
                await transaction.outbox_add([record("after a deadlock")])

    async with asyncio.timeout(LIMIT_S):
        outcomes = await asyncio.gather(cross("a", "b"), cross("b", "a"), return_exceptions=True)
    [error] = [each for each in outcomes if each is not None]
    assert isinstance(error, UsageError | StoreConflict)
    assert await store.outbox_after(0, 10) == []
    await store.close()


async def test_a_statement_that_commits_by_itself_is_refused(mariadb_server: MariaDbServer, url: str) -> None:
    store = await opened(url)
    with pytest.raises(UsageError, match="CREATE in the session of a step"):
        async with store.transaction() as transaction:
            await transaction.session.execute(text("CREATE TABLE made_inside (id INTEGER)"))
    assert mariadb_server.sql("SHOW TABLES LIKE 'made_inside'", url.rpartition("/")[2].partition("?")[0]) == ""
    await store.close()


async def test_a_procedure_that_commits_is_found_out(mariadb_server: MariaDbServer, url: str) -> None:
    store = await opened(url)
    name = url.rpartition("/")[2].partition("?")[0]
    mariadb_server.sql("CREATE PROCEDURE ends_it() COMMIT", name)
    with pytest.raises(UsageError, match="was ended inside of it"):
        async with store.transaction() as transaction:
            await transaction.session.execute(text("CALL ends_it()"))
            await transaction.outbox_add([record("outside of any transaction")])
    assert await store.outbox_after(0, 10) == []
    await store.close()


async def test_rows_are_updated_in_bulk_also_with_nothing_in_them(mariadb_server: MariaDbServer, url: str) -> None:
    store = await opened(url)
    mariadb_server.sql(
        "CREATE TABLE rich (id UUID PRIMARY KEY, total DECIMAL(10, 2), at DATETIME(6), note VARCHAR(3), raw BLOB, "
        "n INT)",
        url.rpartition("/")[2],
    )
    table = Table("rich", ("id", "total", "at", "note", "raw", "n"), "id")
    rows: list[tuple[Any, ...]] = [
        (f"{n:032x}", "12.50", "2024-01-31T10:00:00.000001", "abc", b"\0\xff'%\\", n) for n in range(300)
    ]
    rows.append(("f" * 32, None, None, None, None, None))
    async with store.transaction() as transaction:
        await transaction.insert_rows(table, rows)
        await transaction.update_rows(table, [(*row[:3], "é", row[4], None) for row in rows[:250]])
        await transaction.update_rows(table, [(*row[:3], "é", row[4], 7) for row in rows[100:200]])
        await transaction.update_rows(table, [(*row[:3], "é", row[4], 7) for row in rows[100:200]])  # nothing changes
    async with store.transaction() as transaction:
        found = sorted(map(tuple, await transaction.load_rows(table, [row[0] for row in rows])))
    expected = [(*row[:3], "é", row[4], 7 if 100 <= n < 200 else None) for n, row in enumerate(rows[:250])]
    assert found == expected + rows[250:]
    with pytest.raises(UsageError, match="rows to update"):
        async with store.transaction() as transaction:
            await transaction.update_rows(table, [rows[0], ("e" * 32, "1", None, "x", b"", 1)])
    with pytest.raises(Exception, match="too long"):
        async with store.transaction() as transaction:
            await transaction.update_rows(table, [(*row[:3], "abcd", *row[4:]) for row in rows[:2]])
    await store.close()


async def test_a_wrong_database_or_password_is_told_without_the_password(mariadb_server: MariaDbServer) -> None:
    place = f"127.0.0.1:{mariadb_server.port}"
    store = MariaDbStore(f"mariadb://root@{place}/nowhere", SERVICE)
    assert not await store.exists()
    with pytest.raises(UsageError, match="nowhere"):
        await store.open()
    store = MariaDbStore(f"mariadb://nobody:s3cret@{place}/mysql", SERVICE)
    for look in (store.exists, store.open):
        with pytest.raises(UsageError, match="Access denied for user 'nobody'") as caught:
            await look()
        assert "s3cret" not in str(caught.value)
    with pytest.raises(StoreUnavailable):
        await MariaDbStore("mariadb://root@127.0.0.1:1/orders", SERVICE).open()
    with pytest.raises(UsageError, match="unknown option 'pool'"):
        MariaDbStore(f"mariadb://root@{place}/orders?pool=3", SERVICE)


async def test_a_server_that_hangs_up_at_once_is_away_and_no_defect(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncmy asks for the socket of a connection that is closed by then, and says so by a RuntimeError."""
    monkeypatch.setattr("asyncio.selector_events._SelectorSocketTransport.get_extra_info", lambda *_, **__: None)
    with pytest.raises(StoreUnavailable, match="does not answer: Transport does not expose socket instance"):
        await MariaDbStore(url, SERVICE).open()


async def test_what_holds_it_back_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.stores.mariadb.warnings.OPEN_S", 0)
    store = await opened(url)
    async with store.transaction() as held:
        await held.insert_rows(ACCOUNTS, [("held", 1)])
        thread = (await held.session.execute(text("SELECT CONNECTION_ID()"))).scalar()
        await held.session.execute(text("SELECT SLEEP(1.1)"))
        lines = await store.warnings()
    assert any(f"connection {thread} " in line for line in lines), lines
    assert any("innodb_flush_log_at_trx_commit is 2" in line for line in lines), lines
    await store.close()


async def test_what_is_longer_than_a_packet_of_the_server_goes_in_several(
    url: str, mariadb_server: MariaDbServer
) -> None:
    """30 values of 800 kB, half of which have to be escaped, and `max_allowed_packet` of 16 MB."""
    assert int(mariadb_server.sql("SELECT @@max_allowed_packet")) < 30 * 800_000
    long, quotes = "x" * 800_000, "'" * 800_000
    answers = [(str(number), "", "", 200, "{}", b"'" * 800_000, 0.0) for number in range(30)]
    store = await opened(url)
    try:
        async with store.transaction() as transaction:
            await transaction.outbox_add([record(quotes if number % 2 else long) for number in range(30)])
            await transaction.insert_rows(ANSWERS, answers)
        assert texts(await store.outbox_after(0, 100)) == [long, quotes] * 15
        async with store.transaction() as transaction:
            await transaction.update_rows(ANSWERS, [(*each[:5], b"\\" * 800_000, 1.0) for each in answers])
        rows = await store.rows().get(ANSWERS, [each[0] for each in answers])
        assert [row[5] for row in rows] == [b"\\" * 800_000] * 30
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([5_000_000], [1]),
        ([1_000_000] * 7, [3, 3, 1]),
        ([5_000_000, 1, 5_000_000], [1, 1, 1]),
        ([1] * 2500, [1000, 1000, 500]),
    ],
)
def test_rows_are_taken_together_up_to_a_number_and_a_length(lengths: list[int], expected: list[int]) -> None:
    rows = [(number, "x" * length) for number, length in enumerate(lengths)]
    found = list(chunks(rows))
    assert [len(each) for each in found] == expected
    assert [row for each in found for row in each] == rows
