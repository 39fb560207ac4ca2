"""What every Broker must keep, as tests. A subclass in a test file is an adapter's whole test:

class TestKafkaBroker(BrokerConformance):
    capabilities = KafkaBroker.capabilities

    async def make_broker(self) -> Broker:
        return KafkaBroker("kafka://localhost:9092")
"""

from __future__ import annotations

from ensue.conformance.broker_append import Appending
from ensue.conformance.broker_keep import Keeping
from ensue.conformance.broker_read import Reading
from ensue.conformance.broker_suite import SOURCE, TOPIC, entries, entry, positions, read

__all__ = ["SOURCE", "TOPIC", "BrokerConformance", "entries", "entry", "positions", "read"]


class BrokerConformance(Appending, Reading, Keeping):
    """Subclass it as `Test…`, say what the adapter can do, and how to make one (see BrokerSuite)."""
