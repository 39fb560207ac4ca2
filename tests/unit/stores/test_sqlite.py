"""The SQLite store keeps every promise of the port, also when it commits in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.conformance.store_outbox import Publishing
from ensue.conformance.store_steps import Stepping
from ensue.ports import Capabilities, Store
from ensue.stores.sqlite import SqliteStore
from ensue.stores.sqlite.commit import Committer


class TestSqliteStore(StoreConformance):
    capabilities = Capabilities(takes_over=True)

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/orders.db"

    async def make_store(self) -> Store:
        store = SqliteStore(self.url, SERVICE)
        assert store.capabilities == self.capabilities
        return store


class SlowDisk(SqliteStore):
    """Believes that each commit takes a second."""

    async def open(self) -> None:
        await super().open()
        assert self._opened is not None
        seconds: Iterator[int] = count()
        writer = self._opened.writer
        writer.committer.close()
        writer.committer = Committer(writer.connection, monotonic=lambda: float(next(seconds)))


class TestSqliteStoreOnASlowDisk(Stepping, Publishing):
    capabilities = Capabilities(takes_over=True)

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/orders.db"

    async def make_store(self) -> Store:
        return SlowDisk(self.url, SERVICE)


class TestTemporarySqliteStore(Stepping):
    capabilities = Capabilities(survives_restart=False, several_processes=False, power_loss_safe=False, takes_over=True)

    @pytest.fixture(autouse=True)
    def one(self) -> None:
        self.made = SqliteStore("sqlite://", SERVICE)
        assert self.made.capabilities == self.capabilities

    async def make_store(self) -> Store:
        return self.made
