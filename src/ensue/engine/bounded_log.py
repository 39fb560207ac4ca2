"""A log for one who only reads it, up to where a fold is to come. What is said into it goes nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ensue.message import Bounds, Garbage, Message
from ensue.ports import Broker, Entry, Reader, TopicTerms
from ensue.views.bounded import Bound, Where, seen


class BoundedLog(Broker):
    """bounds: by partition; a partition without one is not folded, and looks empty. ends: of those that have one, the
    last offset that is read."""

    def __init__(self, broker: Broker, bounds: Mapping[Where, Bound]) -> None:
        self._broker = broker
        self._bounds = bounds
        self.capabilities = broker.capabilities
        self.ends: dict[Where, int] = {}

    async def exists(self) -> bool:
        return await self._broker.exists()

    async def open(self) -> None:
        await self._broker.open()
        for where in self._bounds:
            self.ends[where] = (await self._broker.bounds(*where)).last

    async def close(self) -> None:
        await self._broker.close()

    async def ensure_topic(self, topic: str, partitions: int) -> TopicTerms | None:
        return None  # it makes nothing

    async def partitions(self, topic: str) -> int:
        return await self._broker.partitions(topic)

    async def topics(self) -> Mapping[str, int]:
        return await self._broker.topics()

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        return 0  # what a subscriber asks sources for, a fold does not

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None: ...

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        bound = self._bounds.get((topic, partition))
        if bound is None:
            return _Nothing(after)
        return _BoundedReader(self._broker.reader(topic, partition, after), bound, self.ends[topic, partition])

    async def bounds(self, topic: str, partition: int) -> Bounds:
        if (topic, partition) not in self._bounds:
            return Bounds(1, 0)
        return await self._broker.bounds(topic, partition)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        return 0


class _Nothing(Reader):
    def __init__(self, after: int) -> None:
        self._after = after
        self._closed = asyncio.Event()

    @property
    def after(self) -> int:
        return self._after

    async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        if wait_s > 0:
            await asyncio.wait((waiting := asyncio.ensure_future(self._closed.wait()),), timeout=wait_s)
            waiting.cancel()
        return ()

    async def close(self) -> None:
        self._closed.set()


class _BoundedReader(_Nothing):
    def __init__(self, reader: Reader, bound: Bound, end: int) -> None:
        super().__init__(reader.after)
        self._reader = reader
        self._bound = bound
        self._end = end

    @property
    def after(self) -> int:
        return self._reader.after

    async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        if self._reader.after >= self._end:
            return await super().read(limit, wait_s)
        # A read that comes back with nothing asks again: all up to the end is there, but for what retention takes.
        found = await self._reader.read(min(limit, self._end - self._reader.after), wait_s)
        return [seen(each, self._bound) for each in found]

    async def close(self) -> None:
        await super().close()
        await self._reader.close()
