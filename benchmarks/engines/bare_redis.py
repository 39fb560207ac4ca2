"""The bare side's log on Redis: redis-py's asyncio client, pipelined XADD, XRANGE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from benchmarks.engines.wire import Read, Sent

IN, OUT = "bare:transfers", "bare:accounts"
_CHUNK = 1000


class BareRedis:
    def __init__(self, client: Any) -> None:
        self._client = client
        self._after = "-"

    @classmethod
    async def open(cls, url: str) -> BareRedis:
        log = cls(Redis.from_url(url))
        await log._client.ping()
        return log

    async def close(self) -> None:
        await self._client.aclose()

    async def fill(self, records: Sequence[Sent]) -> None:
        for at in range(0, len(records), _CHUNK):
            await self._add(IN, records[at : at + _CHUNK])

    async def begin(self) -> None:
        self._after = "-"

    async def read(self, limit: int) -> Sequence[Read]:
        entries = await self._client.xrange(IN, self._after, "+", count=limit)
        self._after = f"({entries[-1][0].decode()}"
        return [(int(id_.partition(b"-")[2]), fields[b"body"]) for id_, fields in entries]

    async def append(self, records: Sequence[Sent]) -> None:
        await self._add(OUT, records)

    async def _add(self, stream: str, records: Sequence[Sent]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key, body in records:
            pipeline.xadd(stream, {"key": key, "body": body}, id="0-*")
        await pipeline.execute()
