"""nats-py alone: publishes with one inbox for acknowledgements, that are counted; and pull consumers with fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from servers import NatsServer

from ensue.brokers.nats.headers import encoder, parse_headers

server = NatsServer

Ready = list[tuple[int, dict[str, str], bytes]]  # partition, headers, data


class Raw:
    """The fastest way through its public calls that we know; `js.publish`, gathered, takes three times as long."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._client: Client = self._runner.run(nats.connect(url))
        self._left = 0
        self._done = asyncio.Event()

    def ready(self, batches: Sequence[Any]) -> Sequence[Ready]:
        return [
            [
                (record.partition, headers_of(record), record.data)
                for records in batch.values()
                for record in records
            ]
            for batch in batches
        ]  # fmt: skip

    def append(self, topic: str, batches: Sequence[Ready]) -> None:
        self._runner.run(self._append(topic, batches))

    async def _append(self, topic: str, batches: Sequence[Ready]) -> None:
        client = self._client
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=self._acknowledged)
        for batch in batches:
            self._left = len(batch)
            self._done.clear()
            for partition, headers, data in batch:
                await client.publish(f"{topic}.{partition}", data, reply=inbox, headers=headers)
            await self._done.wait()
        await subscription.unsubscribe()

    async def _acknowledged(self, message: Msg) -> None:
        assert b'"seq"' in message.data, message.data
        self._left -= 1
        if not self._left:
            self._done.set()

    def read(self, topic: str, partitions: int, records: int) -> None:
        self._runner.run(self._read(topic, partitions, records))

    async def _read(self, topic: str, partitions: int, records: int) -> None:
        jetstream = self._client.jetstream()

        async def read(number: int) -> int:
            subject = f"{topic}.{number}"
            stream = await jetstream.find_stream_name_by_subject(subject)
            last = (await jetstream.stream_info(stream)).state.last_seq
            config = ConsumerConfig(ack_policy=AckPolicy.NONE)
            subscription = await jetstream.pull_subscribe(subject, stream=stream, config=config)
            found = 0
            while found < last:
                for message in await subscription.fetch(min(500, last - found), timeout=10):
                    assert message.headers is not None
                    assert message.data
                    found += 1
            await subscription.unsubscribe()
            return found

        assert sum(await asyncio.gather(*(read(number) for number in range(partitions)))) == records

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


def headers_of(record: Any) -> dict[str, str]:
    """What our adapter sends, made before the clock starts."""
    return parse_headers(encoder("orders/0123abcd", record.partition)(record))
