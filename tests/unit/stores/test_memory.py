"""The memory store keeps every promise that a store without sessions and restarts can keep."""

from __future__ import annotations

import pytest

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.ports import Store
from ensue.stores.memory import MemoryStore


class TestMemoryStore(StoreConformance):
    capabilities = MemoryStore.capabilities

    @pytest.fixture(autouse=True)
    def one(self) -> None:
        self.made = MemoryStore(SERVICE)

    async def make_store(self) -> Store:
        return self.made
