"""A server that speaks German: what it refuses is told by its codes, never by its words."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from servers import PgBouncer, PostgresServer
from tests.conftest import started
from tests.unit.stores.test_postgres_tail_faults import drop_slot, followed
from tests.unit.stores.test_postgres_tail_order import follow, opened, publish

from ensue.conformance.store_suite import SERVICE, texts
from ensue.errors import StoreUnavailable, UsageError
from ensue.stores.postgres import PostgresStore
from ensue.stores.postgres.refusal import sqlstate
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.tail_slot import SlotLost, failure

_WHO_MAY = "host all postgres 127.0.0.1/32 trust\nhost all anna,nobody 127.0.0.1/32 scram-sha-256\n"
SCHEMES = pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql+psycopg"])


@pytest.fixture(scope="module")
def german() -> Iterator[PostgresServer]:
    """It knows anna and nobody by their passwords, and lets no others in."""
    settings = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"}
    for server in started(PostgresServer, language="de", settings=settings):
        server.psql("postgres", "CREATE ROLE anna LOGIN PASSWORD 'right'")
        (server.data / "pg_hba.conf").write_text(_WHO_MAY)
        server.psql("postgres", "SELECT pg_reload_conf()")
        yield server


def address(server: PostgresServer, user: str, database: str = "postgres", options: str = "") -> str:
    return f"postgresql://{user}@127.0.0.1:{server.port}/{database}?{options}"


@SCHEMES
@pytest.mark.parametrize(
    ("user", "database", "code"),
    [
        ("postgres", "nowhere", "3D000"),
        ("anna:wrong", "postgres", "28P01"),
        ("nobody:s3cret", "postgres", "28P01"),
        ("bert:right", "postgres", "28000"),
    ],
)
async def test_a_refusal_in_another_language_is_the_operators(
    german: PostgresServer, scheme: str, user: str, database: str, code: str
) -> None:
    url = address(german, user, database).replace("postgresql", scheme, 1)
    with pytest.raises(UsageError, match=code) as caught:
        await PostgresStore(url, SERVICE).open()
    assert "FATAL" in str(caught.value) or scheme.endswith("asyncpg")
    assert "s3cret" not in str(caught.value)
    # Commands that look ask so first. Only of a database that is not there may they say that nothing is.
    store = PostgresStore(url, SERVICE)
    if code == "3D000":
        assert not await store.exists()
        return
    with pytest.raises(UsageError, match=f"{code}.*see user, password and database in the URL"):
        await store.exists()


async def test_a_password_that_is_missing_is_the_operators(german: PostgresServer) -> None:
    url = address(german, "anna").replace("postgresql", "postgresql+psycopg", 1)
    with pytest.raises(UsageError, match="see user, password"):
        await PostgresStore(url, SERVICE).open()


async def test_a_connection_that_is_refused_no_more_has_no_code(german: PostgresServer) -> None:
    assert await sqlstate(address(german, "postgres")) == ""
    german.psql("postgres", "ALTER ROLE anna CONNECTION LIMIT 0")
    try:
        assert await sqlstate(address(german, "anna:right")) == "53300"
        url = address(german, "anna:right").replace("postgresql", "postgresql+psycopg", 1)
        with pytest.raises(StoreUnavailable, match="53300"):  # this may pass
            await PostgresStore(url, SERVICE).open()
    finally:
        german.psql("postgres", "ALTER ROLE anna CONNECTION LIMIT -1")


async def test_a_right_that_is_missing_to_read_the_log_is_named(german: PostgresServer) -> None:
    with pytest.raises(UsageError, match="ALTER ROLE <user> REPLICATION"):
        await ReplicationConnection.connect(address(german, "anna:right"))


async def test_a_slot_that_was_invalidated_or_dropped_is_lost(german: PostgresServer) -> None:
    url = address(german, "postgres", "postgres")
    german.psql("postgres", "SELECT pg_create_logical_replication_slot('behind', 'pgoutput')")
    german.psql("postgres", "CREATE TABLE bulk (data text)")
    for _ in range(4):
        german.psql("postgres", "INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        german.psql("postgres", "SELECT pg_switch_wal()")
    german.psql("postgres", "CHECKPOINT")
    assert german.psql("postgres", "SELECT wal_status FROM pg_replication_slots") == "lost"
    for slot in ("behind", "gone"):
        connection = await ReplicationConnection.connect(url)
        try:
            with pytest.raises(psycopg.Error) as caught:
                await connection.start(slot, "ensue_outbox", received=lambda _: None, broken=lambda _: None)
        finally:
            await connection.close()
        assert isinstance(failure(caught.value, slot), SlotLost), caught.value
    german.psql("postgres", "SELECT pg_drop_replication_slot('behind')")


async def test_a_tail_whose_slot_is_dropped_makes_it_anew(german: PostgresServer) -> None:
    german.psql("postgres", "CREATE DATABASE orders")
    async with opened(address(german, "postgres", "orders", "outbox=wal")) as store:
        await publish(store, "1")
        assert texts(await follow(store, 1)) == ["1"]
        drop_slot(german, "orders")
        await publish(store, "2")
        assert texts(await followed(store, 2)) == ["1", "2"]


async def test_a_pooler_is_told_by_its_code(postgres_server: PostgresServer, pgbouncer_server: PgBouncer) -> None:
    with pytest.raises(UsageError, match="A connection pooler stands before the server"):
        await ReplicationConnection.connect(pgbouncer_server.url("postgres"))
