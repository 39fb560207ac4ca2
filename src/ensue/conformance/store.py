"""What every Store must keep, as tests. A subclass in a test file is an adapter's whole test:

class TestPostgresStore(StoreConformance):
    capabilities = PostgresStore.capabilities

    async def make_store(self) -> Store:
        return PostgresStore("postgresql://localhost/conformance", SERVICE)
"""

from __future__ import annotations

from ensue.conformance.store_concurrent import Concurrent
from ensue.conformance.store_consumer import Consuming, Remembering
from ensue.conformance.store_rows import Reading
from ensue.conformance.store_sessions import Sessions
from ensue.conformance.store_steps import Stepping
from ensue.conformance.store_suite import PARTITION, SERVICE, SOURCE, TOPIC, record
from ensue.conformance.store_workers import Racing, Working

__all__ = ["PARTITION", "SERVICE", "SOURCE", "TOPIC", "StoreConformance", "record"]


class StoreConformance(Stepping, Sessions, Racing, Concurrent, Consuming, Remembering, Working, Reading):
    """Subclass it as `Test…`, say what the adapter can do, and how to make one (see StoreSuite)."""
