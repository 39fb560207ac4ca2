"""The MongoDB store keeps every promise of a store of documents, on a real server of the protocol."""

from __future__ import annotations

from itertools import count

import pytest
from servers import MongoDbServer

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.ports import Store
from ensue.stores.mongodb import MongoDbStore

_databases = count()


class TestMongoDbStore(StoreConformance):
    capabilities = MongoDbStore.capabilities
    #: Racing writers lose and begin again, and this server reads a whole collection for a guarded write.
    patience_s = 120.0

    @pytest.fixture(autouse=True)
    def server(self, mongodb_server: MongoDbServer) -> None:
        self.url = mongodb_server.url(f"conformance{next(_databases)}")

    async def make_store(self) -> Store:
        return MongoDbStore(self.url, SERVICE)
