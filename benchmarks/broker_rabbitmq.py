"""RabbitMQ by aio-pika alone: publishing with confirmations, a batch gathered; consumers on stream queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aio_pika
from servers import RabbitMqServer as server

from benchmarks.brokers import BATCH, SOURCE, Batch
from ensue.codec import decode_envelope

__all__ = ["Raw", "server"]


class Raw:
    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(aio_pika.connect(url))

    def ready(self, batches: Sequence[Batch]) -> Sequence[Any]:
        return [
            [(partition, _message(each, partition)) for (_, partition), records in batch.items() for each in records]
            for batch in batches
        ]

    def append(self, topic: str, batches: Sequence[Any]) -> None:
        async def go() -> None:
            async with self._connection.channel() as channel:
                publish = channel.default_exchange.publish
                for batch in batches:
                    await asyncio.gather(*(publish(message, f"{topic}.{number}") for number, message in batch))

        self._runner.run(go())

    def read(self, topic: str, partitions: int, records: int) -> None:
        async def go() -> None:
            done = asyncio.Event()
            found = 0

            async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                nonlocal found
                await message.ack()
                found += "cloudEvents:id" in message.headers and bool(message.body)
                if found == records:
                    done.set()

            async with self._connection.channel() as channel:
                await channel.set_qos(prefetch_count=2 * BATCH)
                for number in range(partitions):
                    queue = await channel.get_queue(f"{topic}.{number}")
                    await queue.consume(take, arguments={"x-stream-offset": "first"})
                await done.wait()

        self._runner.run(go())

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


def _message(record: Any, partition: int) -> aio_pika.Message:
    envelope = decode_envelope(record.envelope)
    attributes = {
        "specversion": "1.0", "id": envelope.id, "source": SOURCE, "type": envelope.type, "time": envelope.time,
        "correlationid": envelope.correlation_id, "partitionkey": record.key, "ensuepartition": str(partition),
        "ensueposition": str(record.position), "ensueprevious": str(record.previous),
    }  # fmt: skip
    headers: Any = {f"cloudEvents:{name}": value for name, value in attributes.items()}
    return aio_pika.Message(
        record.data, headers=headers, content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
    )
