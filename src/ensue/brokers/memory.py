"""A log in this process's memory: for tests, and for services that share one process and may forget everything."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from ensue.brokers import check_partition, check_partitions, check_partitions_wanted
from ensue.brokers.reading import BaseBroker, LookingReader
from ensue.codec import garbage, is_ours, read_message
from ensue.embedded.wakeup import Wakeup
from ensue.errors import BadMessage, BrokerUnavailable
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Capabilities, Entry


class _Partition:
    """One partition: records[i] has the offset first + i."""

    __slots__ = ("appended", "first", "key", "records")

    def __init__(self, key: int) -> None:
        self.key = key
        self.first = 1
        self.records: list[Message | Garbage] = []
        #: (last offset, epoch seconds) of each append, oldest first: what prune goes by.
        self.appended: deque[tuple[int, float]] = deque()

    @property
    def last(self) -> int:
        return self.first + len(self.records) - 1


class _Log:
    """What the brokers of one name share."""

    def __init__(self) -> None:
        self.topics: dict[str, list[_Partition]] = {}
        self.wakeups: set[Wakeup] = set()
        self.keys = count(1)


_shared: weakref.WeakValueDictionary[str, _Log] = weakref.WeakValueDictionary()


class MemoryBroker(BaseBroker):
    """`memory:` is a log of this object's own, kept while the object lives, also from close to open.

    `memory:name` is one log for all brokers of that name in the process, kept while one of them lives. They all
    belong to one event loop. An append is atomic: all of it or nothing.
    now: the clock of retention, epoch seconds.
    """

    capabilities = Capabilities(sessions=False, survives_restart=False, several_processes=False, power_loss_safe=False)

    def __init__(self, url: str = "memory:", *, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        name = url.removeprefix("memory:").removeprefix("//")
        self._log = _shared.setdefault(name, _Log()) if name else _Log()
        self._now = now
        self._wakeup: Wakeup | None = None

    async def exists(self) -> bool:
        return bool(self._log.topics)

    async def open(self) -> None:
        if self._wakeup is None:
            wakeup = Wakeup(None)
            await wakeup.open()
            self._wakeup = wakeup
            self._log.wakeups.add(wakeup)

    async def close(self) -> None:
        await self._close_readers()
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            self._log.wakeups.discard(wakeup)
            await wakeup.close()

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        self._opened()
        check_partitions_wanted(topic, partitions)
        topics = self._log.topics
        if topic not in topics:
            topics[topic] = [_Partition(next(self._log.keys)) for _ in range(partitions)]
        check_partitions(topic, partitions, len(topics[topic]))

    async def partitions(self, topic: str) -> int:
        self._opened()
        return len(self._log.topics.get(topic, ()))

    async def topics(self) -> Mapping[str, int]:
        self._opened()
        return {topic: len(partitions) for topic, partitions in self._log.topics.items()}

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        self._opened()
        ready = []
        for (topic, number), entries in batches.items():
            partition = self._partition(topic, number)
            ready.append((partition, _records(topic, number, partition.last + 1, source, entries)))
        now = self._now()
        for partition, records in ready:  # no await in here: all batches, or none
            partition.records += records
            partition.appended.append((partition.last, now))
        keys = [partition.key for partition, _ in ready]
        for wakeup in self._log.wakeups:
            wakeup.notify(keys)
        return [partition.last for partition, _ in ready]

    def reader(self, topic: str, partition: int, after: int) -> MemoryReader:
        return MemoryReader(self, topic, partition, after)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        self._opened()
        log = self._partition(topic, partition)
        return Bounds(log.first, log.last)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        self._opened()
        log = self._partition(topic, partition)
        through = log.first - 1
        while log.appended and log.appended[0][1] < before_s and through < log.first - 1 + limit:
            through = log.appended[0][0]
            if through < log.first + limit:
                log.appended.popleft()
        pruned = min(through - log.first + 1, limit)
        del log.records[:pruned]
        log.first += pruned
        return pruned

    def _opened(self) -> Wakeup:
        if self._wakeup is None:
            raise BrokerUnavailable("the memory broker is not open: call open() first")
        return self._wakeup

    def _partition(self, topic: str, number: int) -> _Partition:
        partitions = self._log.topics.get(topic, [])
        check_partition(topic, number, len(partitions))
        return partitions[number]


class MemoryReader(LookingReader[MemoryBroker]):
    async def _look(self, limit: int) -> Sequence[Message | Garbage]:
        self._broker._opened()
        log = self._broker._partition(self.topic, self.partition)
        begin = max(self.after - log.first + 1, 0)
        return log.records[begin : begin + limit]

    async def _woken(self, seconds: float) -> None:
        wakeup, key = self._broker._opened(), self._broker._partition(self.topic, self.partition).key
        await wakeup.wait(key, wakeup.sequence(key), seconds)  # no await since the look: nothing came in between


def _records(topic: str, partition: int, first: int, source: str, entries: Sequence[Entry]) -> list[Message | Garbage]:
    """Decode the envelopes once, here, so that every reader shares the values."""
    records: list[Message | Garbage] = []
    for offset, entry in enumerate(entries, first):
        try:
            where = (topic, partition, offset, entry.key, source, entry.position, entry.previous)
            records.append(read_message(*where, entry.envelope, entry.data))
        except BadMessage as error:
            ours = entry.position != 0 or is_ours((entry.envelope.decode(errors="replace"),))
            records.append(garbage(topic, partition, offset, entry.key, error, entry.data, ours=ours))
    return records
