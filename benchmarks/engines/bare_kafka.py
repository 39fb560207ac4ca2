"""The bare side's log on Kafka: confluent-kafka, an idempotent producer with counted reports, an assigned partition."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.engines.wire import Read, Sent

IN, OUT = "bare.transfers", "bare.accounts"
_CHUNK = 1000
_LIMIT_S = 60.0


class BareKafka:
    def __init__(self, servers: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(
            {"bootstrap.servers": servers, "enable.idempotence": True, "acks": "all", "linger.ms": 0.5}
        )
        self._consumer = Consumer(
            {"bootstrap.servers": servers, "group.id": "bare", "enable.auto.commit": False,
             "auto.offset.reset": "earliest"}
        )  # fmt: skip
        self._problem: KafkaError | None = None
        self._reported = 0

    @classmethod
    async def open(cls, url: str) -> BareKafka:
        servers = url.removeprefix("kafka://")
        admin = AdminClient({"bootstrap.servers": servers})
        known = admin.list_topics(timeout=_LIMIT_S).topics
        made = [NewTopic(topic, 1, 1) for topic in (IN, OUT) if topic not in known]
        if made:
            for future in admin.create_topics(made).values():
                future.result()
        return cls(servers)

    async def close(self) -> None:
        self._consumer.close()
        self._producer.close()

    async def fill(self, records: Sequence[Sent]) -> None:
        for at in range(0, len(records), _CHUNK):
            await self._produce(IN, records[at : at + _CHUNK])

    async def begin(self) -> None:
        """librdkafka fetches ahead from now on, in its own threads."""
        self._consumer.assign([TopicPartition(IN, 0, 0)])

    async def read(self, limit: int) -> Sequence[Read]:
        """What is there, without a hop to a thread; only when there is nothing is it waited for, in one."""
        records = self._consumer.consume(limit, 0)
        while not records:
            records = await self._loop.run_in_executor(None, self._consumer.consume, 1, 1.0)
            records += self._consumer.consume(limit - len(records), 0) if len(records) < limit else []
        found: list[Any] = []
        for record in records:
            if record.error() is not None:
                raise RuntimeError(f"Kafka: {record.error()}")
            found.append((record.offset(), record.value()))
        return found

    async def append(self, records: Sequence[Sent]) -> None:
        await self._produce(OUT, records)

    async def _produce(self, topic: str, records: Sequence[Sent]) -> None:
        produce, report = self._producer.produce, self._report
        self._reported = 0
        for key, body in records:
            produce(topic, body, key, 0, report)
        await self._loop.run_in_executor(None, self._producer.flush, _LIMIT_S)
        if self._problem is not None or self._reported != len(records):
            raise RuntimeError(f"{len(records) - self._reported} records are not reported; error: {self._problem}")

    def _report(self, error: KafkaError | None, record: object) -> None:
        if error is not None:
            self._problem = error
        self._reported += 1
