"""The PostgreSQL store keeps every promise of the port when positions come from the server's log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from servers import PostgresServer

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.conformance.store_suite import StoreSuite
from ensue.ports import Capabilities, Store
from ensue.stores.postgres import PostgresStore


class _OnTail(StoreSuite):
    """scheme: of the URL."""

    capabilities = Capabilities(concurrent_writers=True, takes_over=True)
    scheme = "postgresql+asyncpg"

    @pytest.fixture(autouse=True)
    def database(self, postgres_server: PostgresServer) -> Iterator[None]:
        name = f"tail_{uuid.uuid4().hex[:12]}"
        self.url = f"{postgres_server.url(name, self.scheme)}?outbox=wal"
        yield
        postgres_server.drop(name)

    async def make_store(self) -> Store:
        store = PostgresStore(self.url, SERVICE)
        assert store.capabilities == self.capabilities
        return store


class TestPostgresStoreWal(_OnTail, StoreConformance):
    pass


class TestPostgresStoreWalByPsycopg(_OnTail, StoreConformance):
    scheme = "postgresql+psycopg"
