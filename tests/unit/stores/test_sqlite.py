"""The SQLite store keeps every promise of the port."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.ports import Capabilities, Store
from ensue.stores.sqlite import SqliteStore


class TestSqliteStore(StoreConformance):
    capabilities = Capabilities()

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/orders.db"

    async def make_store(self) -> Store:
        store = SqliteStore(self.url, SERVICE)
        assert store.capabilities == self.capabilities
        return store
