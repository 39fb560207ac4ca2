"""The MariaDB store keeps every promise of the port."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from servers import MariaDbServer

from ensue.conformance.store import SERVICE, StoreConformance, record
from ensue.conformance.store_outbox import Publishing
from ensue.ports import Capabilities, Store
from ensue.stores.mariadb import MariaDbStore
from ensue.stores.sql.wakeup import Polling

_numbers = count(1)


class TestMariaDbStore(StoreConformance):
    capabilities = Capabilities(concurrent_writers=True)
    options = ""

    @pytest.fixture(autouse=True)
    def database(self, mariadb_server: MariaDbServer) -> None:
        self.url = mariadb_server.url(f"conformance_{next(_numbers)}") + self.options

    async def make_store(self) -> Store:
        store = MariaDbStore(self.url, SERVICE)
        assert store.capabilities == self.capabilities
        return store


class TestMariaDbStoreWokenByItsBinaryLog(Publishing):
    capabilities = Capabilities(concurrent_writers=True)

    @pytest.fixture(autouse=True)
    def database(self, mariadb_server: MariaDbServer) -> None:
        self.url = mariadb_server.url(f"conformance_{next(_numbers)}") + "?binlog=1"

    async def make_store(self) -> Store:
        return MariaDbStore(self.url, SERVICE)

    async def test_what_another_process_commits_is_heard_and_not_looked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with self.opened() as store, self.another(store) as other:
            async with asyncio.timeout(self.patience_s):
                while not store._opened.news._hears:  # type: ignore[attr-defined]
                    await store.outbox_wait(0.1)
            await store.outbox_after(0, 1)
            monkeypatch.setattr(Polling, "wait", None)  # whoever looks now fails
            waiting = asyncio.create_task(store.outbox_wait(10 * self.patience_s))
            await asyncio.sleep(0.1)
            await self.publish(other, record())
            async with asyncio.timeout(self.patience_s):
                await waiting
