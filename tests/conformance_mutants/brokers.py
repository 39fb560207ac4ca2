"""Brokers with one fault each, wrapped around a healthy one. The conformance suite must reject every one of them.

They show that the suite can fail, and how such faults look from outside: each has been seen in a real system.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from ensue.errors import BadMessage, BrokerUnavailable, RecordRefused, TopicMismatch
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Broker, Entry, Reader


class WrappedReader:
    """Hands everything on to a healthy reader; a subclass spoils one thing."""

    def __init__(self, healthy: Reader) -> None:
        self.healthy = healthy

    @property
    def after(self) -> int:
        return self.healthy.after

    async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        return await self.healthy.read(limit, wait_s)

    async def close(self) -> None:
        await self.healthy.close()


class WrappedBroker:
    """Hands everything on to a healthy broker; a subclass spoils one thing, of its own or of its readers."""

    reads_by: type[WrappedReader] = WrappedReader

    def __init__(self, healthy: Broker) -> None:
        self.healthy = healthy
        self.capabilities = healthy.capabilities

    async def exists(self) -> bool:
        return await self.healthy.exists()

    async def open(self) -> None:
        await self.healthy.open()

    async def close(self) -> None:
        await self.healthy.close()

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        await self.healthy.ensure_topic(topic, partitions)

    async def partitions(self, topic: str) -> int:
        return await self.healthy.partitions(topic)

    async def topics(self) -> Mapping[str, int]:
        return await self.healthy.topics()

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        return await self.healthy.append(topic, partition, source, entries)

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        await self.healthy.append_many(source, batches)

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        return self.reads_by(self.healthy.reader(topic, partition, after))

    async def bounds(self, topic: str, partition: int) -> Bounds:
        return await self.healthy.bounds(topic, partition)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        return await self.healthy.prune(topic, partition, before_s, limit)


class LosesTheTail(WrappedBroker):
    """Acknowledges a batch of which the last record never arrived."""

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        return await super().append(topic, partition, source, entries[:-1] if len(entries) > 1 else entries)


class Reorders(WrappedBroker):
    """Sends the records of a batch at once; one overtakes another."""

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        return await super().append(topic, partition, source, [*entries[:-2], *reversed(entries[-2:])])


class GoesOnAfterAFailedRecord(WrappedBroker):
    """Tries each record of a batch, whatever happened to the one before, and tells of the error at the end."""

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        failed: Exception | None = None
        for each in entries:
            try:
                await super().append(topic, partition, source, [each])
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed
        return (await self.bounds(topic, partition)).last


class CallsARefusalAnOutage(WrappedBroker):
    """Says of a record that it refuses for ever that it is away, so that it is sent again and again."""

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        try:
            return await super().append(topic, partition, source, entries)
        except RecordRefused as error:
            raise BrokerUnavailable(str(error)) from error


class MixesPartitions(WrappedBroker):
    """Writes a batch over several partitions into the first of them."""

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        together = [each for entries in batches.values() for each in entries]
        for first in list(batches)[:1]:
            await super().append_many(source, {first: together})


class RepeatsOldOffsets(WrappedBroker):
    """Takes `after` for the first offset that is wanted."""

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        return super().reader(topic, partition, max(after - 1, 0))


class SharesOnePlace(WrappedBroker):
    """Gives all readers of a partition one place, as a consumer group does: what one has got, no other sees."""

    class reads_by(WrappedReader):
        async def close(self) -> None:
            """Others may still read."""

    def __init__(self, healthy: Broker) -> None:
        super().__init__(healthy)
        self._shared: dict[tuple[str, int], Reader] = {}

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        return self._shared.setdefault((topic, partition), super().reader(topic, partition, after))


class ReturnsTheNewest(WrappedBroker):
    """Leaves out the older records when there are more than the limit."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            return (await super().read(1_000_000, wait_s))[-limit:]


class ReturnsPastALateRecord(WrappedBroker):
    """Shows a record only after it has shown later ones, as a sequence does whose transactions commit out of order."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            found = await super().read(limit, wait_s)
            return [*found[1:], *found[:1]]


class ForgetsItsPlace(WrappedBroker):
    """Begins each read where the reader was opened."""

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        healthy = self.healthy

        class Forgetful(WrappedReader):
            async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
                self.healthy = healthy.reader(topic, partition, after)
                return await super().read(limit, wait_s)

        return Forgetful(healthy.reader(topic, partition, after))


class LosesWhatACancelledReadTook(WrappedBroker):
    """Moves its place before what it has taken is in the caller's hands."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            found = await super().read(limit, wait_s)
            await asyncio.sleep(0)
            return found


class NeverWakes(WrappedBroker):
    """Looks again only when the whole wait is over."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            found = await super().read(limit, 0.0)
            if found or wait_s <= 0:
                return found
            await asyncio.sleep(wait_s)
            return await super().read(limit, 0.0)


class FillsTheBatch(WrappedBroker):
    """Waits for `limit` records when there are some already."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            found = await super().read(limit, wait_s)
            if found and len(found) < limit:
                return [*found, *await super().read(limit - len(found), wait_s)]
            return found


class SleepsThroughItsReadersClose(WrappedBroker):
    """Does not end the read that waits when its reader is closed."""

    class reads_by(WrappedReader):
        async def close(self) -> None:
            """Leaves the healthy one open: it goes on waiting."""


class SleepsThroughClose(WrappedBroker):
    """Does not end the reads that wait when it is closed."""

    async def close(self) -> None:
        """Leaves the healthy one open: whoever waits goes on waiting."""


class PruneResetsOffsets(WrappedBroker):
    """Takes the next offset from what the log holds, so that an empty partition begins at 1 again."""

    def __init__(self, healthy: Broker) -> None:
        super().__init__(healthy)
        self._forgotten: dict[tuple[str, int], int] = {}

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        last = await super().append(topic, partition, source, entries)
        return last - self._forgotten.get((topic, partition), 0)

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        forgotten = self._forgotten.get((topic, partition), 0)

        class Shifted(WrappedReader):
            @property
            def after(self) -> int:
                return self.healthy.after - forgotten

            async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
                found = await super().read(limit, wait_s)
                return [msgspec.structs.replace(each, offset=each.offset - forgotten) for each in found]

        return Shifted(self.healthy.reader(topic, partition, after + forgotten))

    async def bounds(self, topic: str, partition: int) -> Bounds:
        first, last = await super().bounds(topic, partition)
        forgotten = self._forgotten.get((topic, partition), 0)
        return Bounds(first - forgotten, last - forgotten)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        pruned = await super().prune(topic, partition, before_s, limit)
        first, last = await super().bounds(topic, partition)
        if first > last:
            self._forgotten[topic, partition] = last
        return pruned


class TakesAnyNumberOfPartitions(WrappedBroker):
    """Finds the topic there and does not look at its partitions."""

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        try:
            await super().ensure_topic(topic, partitions)
        except TopicMismatch:
            return


class DropsExtensions(WrappedBroker):
    """Carries the attributes it knows, and no others."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            return [
                msgspec.structs.replace(each, envelope=msgspec.structs.replace(each.envelope, extensions=None))
                if isinstance(each, Message)
                else each
                for each in await super().read(limit, wait_s)
            ]


class CutsBigRecords(WrappedBroker):
    """Keeps the first 64 KiB of the data."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            found = await super().read(limit, wait_s)
            return [msgspec.structs.replace(each, data=each.data[:65536]) for each in found]


class DropsTheSeal(WrappedBroker):
    """Carries the attributes that it knows by name, and no checksum among them."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            found = await super().read(limit, wait_s)
            return [
                each
                if isinstance(each, Garbage)
                else msgspec.structs.replace(
                    each, envelope=msgspec.structs.replace(each.envelope, crc="", signature="")
                )
                for each in found
            ]


class StopsAtGarbage(WrappedBroker):
    """Raises on a record that is no message, so that no subscriber gets past it."""

    class reads_by(WrappedReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            found = await super().read(limit, wait_s)
            for each in found:
                if isinstance(each, Garbage):
                    raise BadMessage(each.reason)
            return found
