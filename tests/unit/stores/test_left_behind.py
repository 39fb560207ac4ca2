"""What a step's statements set is no other step's, nor that of Ensue's own statements in the same step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from servers import MariaDbServer, PostgresServer
from sqlalchemy import text

from ensue.adapters import make_store
from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE, Account, record, texts
from ensue.errors import UsageError

POSTGRES = {
    "another schema": ["SET search_path TO neighbour"],
    "another schema, by function": ["SELECT set_config('search_path', 'neighbour', false)"],
    "another schema, in the step": ["SET LOCAL search_path TO neighbour"],
    "another role": ["SET ROLE nobody_here"],
    "another role, in the step": ["SET LOCAL ROLE nobody_here"],
    "another user": ["SET SESSION AUTHORIZATION nobody_here"],
    "read only": ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
    "a timeout": ["SELECT 1; SET statement_timeout = 1"],
    "tables that hide others": [
        "CREATE TEMP TABLE conformance_account (id text, balance text)",
        "CREATE TEMPORARY TABLE ensue_outbox (id int)",
    ],
    "a prepared statement": ["PREPARE mine AS SELECT 1"],
    "a lock": ["SELECT pg_advisory_lock(7)"],
}
MARIADB = {
    "another database": ["USE neighbour"],
    "another mode": ["SET SESSION sql_mode = 'ANSI_QUOTES,IGNORE_SPACE,EMPTY_STRING_IS_NULL'"],
    "read only": ["SET SESSION TRANSACTION READ ONLY"],
    "a timeout": ["SET @@session.max_statement_time = 0.0001, innodb_lock_wait_timeout = 1"],
    "another character set": ["SET NAMES latin1"],
    "tables that hide others": [
        "CREATE TEMPORARY TABLE conformance_account (id text, balance text)",
        "CREATE TEMPORARY TABLE IF NOT EXISTS `ensue_outbox` (id int)",
    ],
    "a variable": ["SET @mine := 1"],
    "a lock": ["SELECT GET_LOCK('mine', 1)"],
}
CASES = [
    *[(driver, name) for driver in ("asyncpg", "psycopg") for name in POSTGRES],
    *[("mariadb", name) for name in MARIADB],
]


def statements_of(driver: str, name: str) -> list[str]:
    found = (MARIADB if driver == "mariadb" else POSTGRES)[name]
    # asyncpg prepares each statement, and takes one at a time.
    return [part for each in found for part in (each.split("; ") if driver == "asyncpg" else [each])]


@pytest.fixture
async def stores(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, mariadb_server: MariaDbServer
) -> AsyncIterator[list[Any]]:
    """A store with one connection for steps, and its neighbour on the same server."""
    driver = request.param
    if driver == "mariadb":
        for name in ("left_behind", "neighbour"):
            mariadb_server.drop(name)
        urls = [mariadb_server.url(name) + "?pool_size=5" for name in ("left_behind", "neighbour")]
    else:
        postgres_server.drop("left_behind")
        url = postgres_server.url("left_behind", f"postgresql+{driver}")
        postgres_server.psql("left_behind", "DROP ROLE IF EXISTS nobody_here")
        postgres_server.psql("left_behind", "CREATE ROLE nobody_here")
        urls = [f"{url}?pool_size=5&schema={name}" for name in ("mine", "neighbour")]
    opened = [make_store(each, SERVICE) for each in urls]
    for each in opened:
        await each.open()
        await each.create_tables(METADATA)
        async with each.transaction() as step:
            await step.insert_rows(ACCOUNTS, [("a", 1)])
    yield opened
    for each in opened:
        await each.close()


@pytest.mark.parametrize(("stores", "name"), CASES, indirect=["stores"])
async def test_a_step_leaves_nothing_to_others(request: pytest.FixtureRequest, stores: list[Any], name: str) -> None:
    store, neighbour = stores
    statements = statements_of(request.node.callspec.params["stores"], name)
    async with store.transaction() as step:
        for number in range(2):  # two messages of one batch
            for each in statements:
                if not (number and each.startswith("PREPARE")):  # its name is taken by then, and in nobody's way
                    await step.session.execute(text(each))
            await step.flush(forget=True)
            account = await step.session.get_one(Account, "a")
            account.balance += 1
            await step.flush(forget=True)
        await step.outbox_add([record("1")])
    for number in (2, 3):
        async with store.transaction() as step:
            account = await step.session.get_one(Account, "a")
            account.balance += 1
            await step.flush()
            await step.outbox_add([record(str(number))])
    assert texts(await store.outbox_after(0, 10)) == ["1", "2", "3"]
    assert await neighbour.outbox_after(0, 10) == []
    async with store.reading() as session:
        assert (await session.get_one(Account, "a")).balance == 5
    async with neighbour.reading() as session:
        assert (await session.get_one(Account, "a")).balance == 1


async def connection_id(step: Any, driver: str) -> int:
    query = "SELECT CONNECTION_ID()" if driver == "mariadb" else "SELECT pg_backend_pid()"
    return int(await step.session.scalar(text(query)))


@pytest.mark.parametrize("stores", ["asyncpg", "psycopg", "mariadb"], indirect=True)
async def test_a_connection_is_kept_unless_something_is_left_on_it(
    request: pytest.FixtureRequest, stores: list[Any]
) -> None:
    driver = request.node.callspec.params["stores"]
    seen: list[int] = []
    for statement in (
        "SELECT 1",
        "SET STATEMENT max_statement_time = 1 FOR SELECT 1" if driver == "mariadb" else "SET LOCAL work_mem = '8MB'",
        "SET time_zone = '+00:00'" if driver == "mariadb" else "SET work_mem = '8MB'",
        "SELECT 1",
    ):
        async with stores[0].transaction() as step:
            await step.session.execute(text(statement))
            seen.append(await connection_id(step, driver))
    assert seen[0] == seen[1] == seen[2] != seen[3]


@pytest.mark.parametrize("stores", ["asyncpg", "psycopg"], indirect=True)
@pytest.mark.parametrize("statement", ["SET TRANSACTION READ ONLY", "SET LOCAL transaction_read_only = on"])
async def test_a_transaction_that_could_store_no_event_is_refused(stores: list[Any], statement: str) -> None:
    with pytest.raises(UsageError, match=r"SET .*TRANSACTION.* in the session of a step"):
        async with stores[0].transaction() as step:
            await step.session.execute(text(statement))


@pytest.mark.parametrize("stores", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    "statement", ["SET autocommit = 0", "SET ROLE none", "/*!50000 TRUNCATE conformance_account */"]
)
async def test_what_mariadb_would_do_by_itself_is_refused(stores: list[Any], statement: str) -> None:
    with pytest.raises(UsageError, match="in the session of a step"):
        async with stores[0].transaction() as step:
            await step.session.execute(text(statement))


async def test_behind_a_pooler_settings_are_put_back_in_the_step(
    postgres_server: PostgresServer, pgbouncer_server: Any
) -> None:
    postgres_server.drop("left_pooled")
    postgres_server.url("left_pooled")
    store: Any = make_store(f"{pgbouncer_server.url('left_pooled')}?pgbouncer=1&pool_size=5&schema=mine", SERVICE)
    await store.open()
    try:
        async with store.transaction() as step:
            await step.session.execute(text("SET search_path TO nowhere"))
            await step.flush()
            await step.outbox_add([record("1")])
        async with store.transaction() as step:
            assert await step.session.scalar(text("SHOW search_path")) == "mine"
            await step.outbox_add([record("2")])
        assert texts(await store.outbox_after(0, 10)) == ["1", "2"]
    finally:
        await store.close()


@pytest.mark.parametrize(
    "statement", ["PRAGMA query_only = ON", "ATTACH 'other.db' AS other", "PRAGMA foreign_keys(0)"]
)
async def test_on_sqlite_nothing_is_set_on_the_connection_of_all_steps(tmp_path: Path, statement: str) -> None:
    store: Any = make_store(f"sqlite:///{tmp_path}/left.db", SERVICE)
    await store.open()
    try:
        with pytest.raises(UsageError, match="in the session of a step"):
            async with store.transaction() as step:
                await step.session.execute(text(statement))
        async with store.transaction() as step:
            await step.outbox_add([record("1")])
    finally:
        await store.close()


async def test_on_sqlite_a_temporary_table_ends_with_its_step(tmp_path: Path) -> None:
    store: Any = make_store(f"sqlite:///{tmp_path}/left.db", SERVICE)
    await store.open()
    try:
        for number in (1, 2):
            async with store.transaction() as step:
                await step.session.execute(text("PRAGMA defer_foreign_keys = ON"))
                await step.session.execute(text("CREATE TEMP TABLE ensue_outbox (position INTEGER)"))
                await step.session.execute(text("CREATE TEMPORARY VIEW seen AS SELECT * FROM ensue_outbox"))
                await step.flush()
                assert await step.session.scalar(text("PRAGMA defer_foreign_keys")) == 0
                await step.outbox_add([record(str(number))])
        assert texts(await store.outbox_after(0, 10)) == ["1", "2"]
    finally:
        await store.close()
