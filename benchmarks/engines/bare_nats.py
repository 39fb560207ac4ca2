"""The bare side's log on NATS JetStream: nats-py, plain publishes with one inbox and counted answers, pull fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from benchmarks.engines.wire import Read, Sent

IN, OUT = "bare.transfers", "bare.accounts"
_CHUNK = 1000
_LIMIT_S = 60.0


class BareNats:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._context = client.jetstream()
        self._reader: Any = None
        self._inbox = ""
        self._left = 0
        self._answered = asyncio.Event()

    @classmethod
    async def open(cls, url: str) -> BareNats:
        log = cls(await nats.connect(url))
        for name, subject in (("bare-in", IN), ("bare-out", OUT)):
            await log._context.add_stream(StreamConfig(name=name, subjects=[subject]))
        log._inbox = log._client.new_inbox()
        await log._client.subscribe(log._inbox, cb=log._acknowledged)
        return log

    async def close(self) -> None:
        await self._client.close()

    async def fill(self, records: Sequence[Sent]) -> None:
        for at in range(0, len(records), _CHUNK):
            await self._publish(IN, records[at : at + _CHUNK])

    async def begin(self) -> None:
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        self._reader = await self._context.pull_subscribe(IN, stream="bare-in", config=config)

    async def read(self, limit: int) -> Sequence[Read]:
        """Asks for no more than there is: `fetch` holds a part-filled batch until its timeout."""
        messages = await self._reader.fetch(limit, timeout=_LIMIT_S)
        return [(int(message.reply.split(".")[5]), message.data) for message in messages]

    async def append(self, records: Sequence[Sent]) -> None:
        await self._publish(OUT, records)

    async def _publish(self, subject: str, records: Sequence[Sent]) -> None:
        publish, inbox = self._client.publish, self._inbox
        self._left = len(records)
        self._answered.clear()
        for _, body in records:
            await publish(subject, body, reply=inbox)
        async with asyncio.timeout(_LIMIT_S):
            await self._answered.wait()

    async def _acknowledged(self, message: Msg) -> None:
        if b'"seq"' not in message.data:
            raise RuntimeError(f"NATS took no record: {message.data!r}")
        self._left -= 1
        if not self._left:
            self._answered.set()
