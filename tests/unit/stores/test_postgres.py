"""The PostgreSQL store keeps every promise of the port, by either driver and through PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import PgBouncer, PostgresServer

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.ports import Capabilities, Store
from ensue.stores.postgres import PostgresStore

DATABASE = "conformance"
EMPTY = "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public"


class _OnPostgres(StoreConformance):
    capabilities = Capabilities(concurrent_writers=True, takes_over=True)
    scheme = "postgresql"
    options = ""

    @pytest.fixture(autouse=True)
    def database(self, postgres_server: PostgresServer) -> None:
        """One for all tests, emptied before each: to make one takes longer than most tests."""
        self.url = postgres_server.url(DATABASE, self.scheme) + self.options
        postgres_server.psql(DATABASE, EMPTY)

    async def make_store(self) -> Store:
        store = PostgresStore(self.url, SERVICE)
        assert store.capabilities == self.capabilities
        return store


class TestPostgresStoreByAsyncpg(_OnPostgres):
    pass


class TestPostgresStoreByPsycopg(_OnPostgres):
    scheme = "postgresql+psycopg"


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresServer, pgbouncer_server: PgBouncer) -> Iterator[PgBouncer]:
    """With room for all connections of two stores: one that has none to give makes everything wait, heartbeats too."""
    with PgBouncer(postgres_server, pool_size=40) as server:
        yield server


class _ThroughPgBouncer(_OnPostgres):
    options = "?pgbouncer=1"

    @pytest.fixture(autouse=True)
    def database(self, postgres_server: PostgresServer, pooler: PgBouncer) -> None:
        self.url = pooler.url(DATABASE, self.scheme) + self.options
        postgres_server.psql(DATABASE, EMPTY)


class TestPostgresStoreByAsyncpgThroughPgBouncer(_ThroughPgBouncer):
    pass


class TestPostgresStoreByPsycopgThroughPgBouncer(_ThroughPgBouncer):
    scheme = "postgresql+psycopg"
