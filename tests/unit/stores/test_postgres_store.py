"""What PostgreSQL in particular does to a store: it loses what was not flushed, it has schemas and types of its own."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from servers import PostgresServer, TcpProxy
from sqlalchemy import Column, Integer, MetaData, event, text
from sqlalchemy import Table as Table_
from sqlalchemy.exc import DBAPIError

from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE, record, texts
from ensue.engine.books import Books
from ensue.errors import StoreOutdated, StoreUnavailable, UsageError
from ensue.ports import Table
from ensue.stores.postgres import PostgresStore

DATABASE = "alone"
EMPTY = "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
LIMIT_S = 30.0


@pytest.fixture(params=["postgresql", "postgresql+psycopg"])
def url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> str:
    url = postgres_server.url(DATABASE, request.param)
    postgres_server.psql(DATABASE, EMPTY)
    return url


async def opened(url: str) -> PostgresStore:
    store = PostgresStore(url, SERVICE)
    await store.open()
    await store.create_tables(METADATA)
    return store


async def deposit(store: PostgresStore, account: str = "a") -> None:
    async with store.transaction() as transaction:
        [(_, balance)] = await transaction.load_rows(ACCOUNTS, [account])
        await transaction.update_rows(ACCOUNTS, [(account, balance + 1)])
        await transaction.outbox_add([record(str(balance + 1), key=account)])


# ------------------------------------------------------------------------------------------------------------- crashes


async def _patiently(store: PostgresStore) -> Any:
    while True:
        try:
            return await store.outbox_after(0, 1_000_000)
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def test_a_published_commit_is_never_lost_with_synchronous_commit_off(start: Callable[..., Any]) -> None:
    """What was not flushed is lost when the server is killed. What was read, was flushed."""
    server = start(PostgresServer, settings={"synchronous_commit": "off", "wal_writer_delay": "10000"})
    store = await opened(server.url("crash"))
    async with store.transaction() as transaction:
        shown = (await transaction.session.execute(text("SHOW synchronous_commit"))).scalar()
        assert shown == "on", "a step's commit is flushed whatever the server's default"
    async with store.transaction() as transaction:
        # The handler puts it off again: its own commit may be lost, but not once it was read for the relay.
        await transaction.session.execute(text("SET LOCAL synchronous_commit TO off"))
        await transaction.outbox_add([record("published")])
    [read] = await store.outbox_after(0, 10)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert await _patiently(store) == [read]
    await store.close()


async def test_a_connection_that_is_cut_is_a_retryable_error_and_heals(
    postgres_server: PostgresServer, url: str
) -> None:
    async with TcpProxy(postgres_server.port) as proxy:
        store = await opened(url.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 0)])
        with pytest.raises(StoreUnavailable):
            async with store.transaction() as transaction:
                await proxy.cut()
                await transaction.load_rows(ACCOUNTS, ["a"])
        with pytest.raises(StoreUnavailable):
            await deposit(store)
        proxy.heal()
        async with asyncio.timeout(LIMIT_S):
            await deposit(store)
            assert texts(await store.outbox_after(0, 10)) == ["1"]
            await Books(store, SERVICE).heartbeat("one", 60.0)
        await store.close()


# ---------------------------------------------------------------------------------------------- other people's fault


async def test_an_error_that_was_caught_commits_nothing(url: str) -> None:
    store = await opened(url)
    with pytest.raises(UsageError, match="savepoint"):
        async with store.transaction() as transaction:
            await transaction.outbox_add([record()])
            with pytest.raises(Exception, match="no_such_table"):
                await transaction.session.execute(text("SELECT * FROM no_such_table"))
    assert await store.outbox_after(0, 10) == []
    await store.close()


async def test_an_error_of_another_server_stays_what_it_is(url: str) -> None:
    store = await opened(url)
    for error in (ConnectionRefusedError("mail"), TimeoutError("mail")):
        with pytest.raises(type(error)):
            async with store.transaction():
                raise error
    await store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL statement_timeout = 50; SELECT pg_sleep(30)",
        "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(30)",
        "DO $$ BEGIN RAISE EXCEPTION 'a bug of the server' USING ERRCODE = 'XX000'; END $$",
    ],
)
async def test_a_statement_that_the_server_gave_up_is_its_messages_fault(url: str, statement: str) -> None:
    store = await opened(url)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(DBAPIError):
            async with store.transaction() as transaction:
                for each in statement.split("; ") if "SET" in statement else [statement]:
                    await transaction.session.execute(text(each))
    await store.close()


@pytest.mark.parametrize(
    "error", [asyncpg.TooManyConnectionsError("elsewhere"), psycopg.errors.TooManyConnections("elsewhere")], ids=type
)
async def test_an_error_of_another_postgres_is_the_handlers_own(url: str, error: Exception) -> None:
    store = await opened(url)
    with pytest.raises(type(error)):
        async with store.transaction() as transaction:
            await transaction.session.execute(text("SELECT 1"))
            raise error
    await store.close()


async def test_a_wrong_database_or_password_is_told_without_the_password(
    postgres_server: PostgresServer, url: str
) -> None:
    store = PostgresStore(url.replace(DATABASE, "nowhere"), SERVICE)
    assert not await store.exists()
    with pytest.raises(UsageError, match="nowhere"):
        await store.open()
    store = PostgresStore(f"{url.replace('postgres@', 'nobody:s3cret@').replace(DATABASE, 'nowhere')}", SERVICE)
    for look in (store.exists, store.open):
        with pytest.raises(UsageError, match=r'nowhere.*role "nobody" does not exist') as caught:
            await look()
        assert "s3cret" not in str(caught.value)
    with pytest.raises(UsageError, match="outbox='wall', expected poll or wal"):
        PostgresStore(f"{url}?outbox=wall", SERVICE)
    with pytest.raises(UsageError, match=r"no outbox='messages'.*Use outbox=wal"):
        PostgresStore(f"{url}?outbox=messages", SERVICE)


async def test_another_services_tables_and_other_versions_are_refused(
    postgres_server: PostgresServer, url: str
) -> None:
    store = await opened(url)
    await store.close()
    with pytest.raises(UsageError, match="of service 'orders', not of 'billing'"):
        await PostgresStore(url, "billing").open()
    postgres_server.psql(DATABASE, "UPDATE ensue_meta SET schema_version = 99")
    with pytest.raises(StoreOutdated):
        await PostgresStore(url, SERVICE).open()


async def test_services_share_a_database_in_schemas_of_their_own(postgres_server: PostgresServer, url: str) -> None:
    postgres_server.psql(
        DATABASE,
        'SET client_min_messages = error; DROP SCHEMA IF EXISTS "One" CASCADE; DROP SCHEMA IF EXISTS two CASCADE',
    )
    stores = [PostgresStore(f"{url}?schema={name}", name) for name in ("One", "two")]
    for store in stores:
        await store.open()
        await store.create_tables(METADATA)
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", len(store.service))])
            await transaction.outbox_add([record(store.service)])
    assert [texts(await store.outbox_after(0, 10)) for store in stores] == [["One"], ["two"]]
    for store in stores:
        await store.close()


# ------------------------------------------------------------------------------------------------------------- in bulk


async def test_rows_of_rich_types_are_plain_values(postgres_server: PostgresServer, url: str) -> None:
    store = await opened(url)
    postgres_server.psql(
        DATABASE,
        'CREATE TABLE rich (id uuid PRIMARY KEY, total numeric(10, 2), at timestamptz, "day" date, "on" boolean, '
        "code varchar(3), fixed char(3), raw bytea, tags text[])",
    )
    columns = ("id", "total", "at", "day", "on", "code", "fixed", "raw")
    table = Table("rich", columns, "id")
    rows: list[tuple[Any, ...]] = [
        (f"{number:032x}", "12.50", "2024-01-31T10:00:00+00:00", "2024-01-31", 1, "abc", "xyz", b"\0\xff")
        for number in range(3)
    ]
    rows.append(("f" * 32, None, None, None, None, None, None, None))
    async with store.transaction() as transaction:
        await transaction.insert_rows(table, rows)
        await transaction.update_rows(table, [(*row[:4], 0, *row[5:]) for row in rows[:3]])
    async with store.transaction() as transaction:
        found = sorted(map(tuple, await transaction.load_rows(table, [row[0] for row in rows])))
    assert found == [(*row[:4], 0, *row[5:]) for row in rows[:3]] + [rows[3]]
    with pytest.raises(Exception, match="too long"):
        async with store.transaction() as transaction:
            await transaction.update_rows(table, [(*row[:5], "abcd", *row[6:]) for row in rows[:2]])
    arrays = Table("rich", ("id", "tags"), "id")
    async with store.transaction() as transaction:
        await transaction.update_rows(arrays, [(rows[0][0], ["a", "b"]), (rows[1][0], [])])
        loaded = {row[0]: list(row[1] or ()) for row in await transaction.load_rows(arrays, [rows[0][0], rows[1][0]])}
    assert loaded == {rows[0][0]: ["a", "b"], rows[1][0]: []}
    await store.close()


async def test_an_update_of_a_row_that_is_gone_is_refused(url: str) -> None:
    store = await opened(url)
    with pytest.raises(UsageError, match="2 rows to update, 1 of them"):
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            await transaction.update_rows(ACCOUNTS, [("a", 2), ("b", 2)])
    await store.close()


# -------------------------------------------------------------------------------------------------- what holds it back


async def test_a_transaction_held_open_is_told_of_with_its_pid_and_delays_nobody(
    postgres_server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.stores.postgres.warnings.OPEN_S", 0.2)
    store = await opened(url)
    assert await store.warnings() == []
    async with store.transaction() as held:
        await held.outbox_add([record("held")])
        pid = (await held.session.execute(text("SELECT pg_backend_pid()"))).scalar()
        await held.session.execute(text("SELECT pg_sleep(0.3)"))
        async with store.transaction() as transaction:
            await transaction.outbox_add([record("quick")])
        begun = time.monotonic()
        assert texts(await store.outbox_after(0, 10)) == ["quick"]
        assert time.monotonic() - begun < 5
        [line] = await store.warnings()
        assert f"pid {pid} " in line
    await store.close()


async def test_a_server_that_goes_away_while_tables_are_made_is_waited_for(url: str) -> None:
    """A start tries again then; an error of SQLAlchemy's would end it."""
    store = PostgresStore(url, SERVICE)
    await store.open()
    mine = MetaData()
    table = Table_("made", mine, Column("id", Integer, primary_key=True))

    @event.listens_for(table, "before_create")
    def end(target: Any, connection: Any, **_: Any) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StoreUnavailable):
        await store.create_tables(mine)
    event.remove(table, "before_create", end)
    assert not await store.create_tables(mine)
    await store.close()
