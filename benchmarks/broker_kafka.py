"""confluent-kafka alone: an idempotent producer with counted delivery reports, a consumer with assigned partitions."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka import Message as KafkaRecord
from servers import MeasuredKafkaServer

from benchmarks.brokers import SOURCE, Batch
from ensue.brokers.kafka.wire import Record, encode

server = MeasuredKafkaServer

_LIMIT_S = 120.0


class Raw:
    """See benchmarks.brokers.RawSide. Its settings are the adapter's: acks=all, idempotence, half a millisecond."""

    def __init__(self, url: str) -> None:
        self._servers = url.removeprefix("kafka://")
        self._producer = Producer(
            {"bootstrap.servers": self._servers, "enable.idempotence": True, "acks": "all", "linger.ms": 0.5,
             "message.max.bytes": 9_000_000}
        )  # fmt: skip
        self._reported = 0

    def ready(self, batches: Sequence[Batch]) -> Sequence[list[tuple[int, list[Record]]]]:
        return [
            [(number, encode(SOURCE, number, records)) for (_, number), records in batch.items()] for batch in batches
        ]

    def append(self, topic: str, batches: Sequence[list[tuple[int, list[Record]]]]) -> None:
        produce, poll, report = self._producer.produce, self._producer.poll, self._report
        for batch in batches:
            self._reported = 0
            expected = 0
            for number, records in batch:
                for key, headers, value in records:
                    produce(topic, value, key, number, report, None, 0, headers)
                expected += len(records)
            while self._reported < expected:
                poll(1.0)

    def _report(self, error: KafkaError | None, record: KafkaRecord) -> None:
        if error is not None:
            raise RuntimeError(f"Kafka did not take a record: {error}")
        self._reported += 1

    def read(self, topic: str, partitions: int, records: int) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._servers, "group.id": "bare", "enable.auto.commit": False,
             "auto.offset.reset": "error"}
        )  # fmt: skip
        try:
            consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
            left = records
            until = time.monotonic() + _LIMIT_S
            while left > 0 and time.monotonic() < until:
                first = consumer.poll(1.0)
                if first is None:
                    continue
                for record in (first, *consumer.consume(499, 0)):
                    if record.error() is None:
                        _ = record.headers(), record.value()
                        left -= 1
            if left:
                raise RuntimeError(f"{left} of {records} records did not come")
        finally:
            consumer.close()

    def close(self) -> None:
        self._producer.close()
