"""The MariaDB store keeps every promise of the port."""

from __future__ import annotations

from itertools import count

import pytest
from servers import MariaDbServer

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.ports import Capabilities, Store
from ensue.stores.mariadb import MariaDbStore

_numbers = count(1)


class TestMariaDbStore(StoreConformance):
    capabilities = Capabilities(concurrent_writers=True, takes_over=True)
    options = ""

    @pytest.fixture(autouse=True)
    def database(self, mariadb_server: MariaDbServer) -> None:
        self.url = mariadb_server.url(f"conformance_{next(_numbers)}") + self.options

    async def make_store(self) -> Store:
        store = MariaDbStore(self.url, SERVICE)
        assert store.capabilities == self.capabilities
        return store
