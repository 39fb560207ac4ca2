"""Redis by redis-py alone: XADD of the same fields, pipelined, a batch in one transaction; XRANGE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from servers import RedisServer as server

from benchmarks.brokers import BATCH, SOURCE, Batch
from ensue.brokers.redis.wire import fields_of

__all__ = ["Raw", "server"]


class Raw:
    def __init__(self, url: str) -> None:
        self._client: Any = Redis.from_url(url)

    def ready(self, batches: Sequence[Batch]) -> Sequence[Any]:
        return [
            [
                (partition, self._fields(each, partition))
                for (_, partition), records in batch.items()
                for each in records
            ]
            for batch in batches
        ]

    def _fields(self, record: Any, partition: int) -> dict[str, Any]:
        flat = fields_of(record, SOURCE, str(partition), "1700000000000")
        return {**dict(zip(flat[::2], flat[1::2], strict=True)), "data": record.data}

    def append(self, topic: str, batches: Sequence[Any]) -> None:
        for batch in batches:
            pipeline = self._client.pipeline(transaction=True)
            for partition, fields in batch:
                pipeline.xadd(f"{topic}:{partition}", fields, id="0-*")
            pipeline.execute()

    def read(self, topic: str, partitions: int, records: int) -> None:
        found = 0
        for number in range(partitions):
            after = "-"
            while entries := self._client.xrange(f"{topic}:{number}", after, "+", count=BATCH):
                after = f"({entries[-1][0].decode()}"
                for _, fields in entries:
                    assert fields[b"data"]
                    assert fields[b"ce_id"]
                found += len(entries)
        assert found == records

    def close(self) -> None:
        self._client.close()
