"""The embedded broker: a partitioned log in one SQLite file, shared by all processes of a machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ensue.brokers import check_partition, check_partitions, check_partitions_wanted
from ensue.brokers import embedded_sql as sql
from ensue.brokers.embedded_file import LogFile
from ensue.brokers.embedded_rows import read_rows
from ensue.brokers.reading import BaseBroker, LookingReader
from ensue.embedded.connection import parse_sqlite_url
from ensue.embedded.write_ahead import PAGE_BYTES
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Capabilities, Entry

#: Rows that one transaction of `prune` deletes (about 1 ms), so that appends come in between.
PRUNE_ROWS = 500
#: What a row takes beside its envelope and data, roughly.
_ROW_BYTES = 64


class EmbeddedBroker(BaseBroker):
    """A log in an SQLite file: `sqlite:///relative.db`, `sqlite:////absolute.db`, with `?synchronous=NORMAL|FULL`.

    NORMAL (the default): what was appended survives the kill of any process at any moment. A power cut or a crash of
    the operating system may take the last appends away, never tear one; subscribers then see a gap in the chain and
    get the records again from the outbox of the sender, whose store syncs every commit. FULL survives power cuts too
    and costs an fsync an append, in a thread, so that the event loop goes on.

    An append is one transaction over as many partitions as it has: all of it or nothing, also when it is cancelled.
    Waiting reads of all processes are woken by it (see `Wakeup`).
    now: the clock of retention, epoch seconds.
    """

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        path, options = parse_sqlite_url(url)
        if path == ":memory:":
            raise UsageError('an embedded broker needs a file; for a log in memory write the URL "memory:"')
        self._file = LogFile(os.path.abspath(path), options.get("synchronous", "NORMAL"))
        self.capabilities = Capabilities(sessions=False, power_loss_safe=self._file.syncs)
        self._now = now
        #: Row ids of each topic's partitions by number. They never change while the file is open.
        self._ids: dict[str, list[int]] = {}
        self._generation = 0

    async def exists(self) -> bool:
        return self._file.exists()

    async def open(self) -> None:
        """Raises UsageError when the file is no broker's, or of another version."""
        await self._file.open()
        self._generation = self._file.generation

    async def close(self) -> None:
        try:
            await self._close_readers()
        finally:  # also for who is cancelled meanwhile
            self._ids = {}  # the next open may find another file
            await self._file.close()

    # --- topics

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        check_partitions_wanted(topic, partitions)
        found = await self.partitions(topic)
        if not found:
            async with self._file.transaction() as writer:
                # Another process may have been faster: look again inside the transaction.
                found = len(writer.execute(sql.PARTITION_IDS, (topic,)).fetchall())
                if not found:
                    writer.executemany(sql.ADD_PARTITION, [(topic, number) for number in range(partitions)])
                    found = partitions
        check_partitions(topic, partitions, found)

    async def partitions(self, topic: str) -> int:
        return len(await self._partition_ids(topic))

    async def topics(self) -> Mapping[str, int]:
        return dict(await self._fetch(sql.TOPICS, ()))

    # --- append

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        ids = [await self._partition_id(topic, number) for topic, number in batches]
        generation = self._generation
        lasts: list[int] = []
        size = 0
        async with self._file.transaction(wake=ids) as writer:
            if generation != self._file.generation:
                raise self._replaced()
            now = self._now()
            for partition_id, entries in zip(ids, batches.values(), strict=True):
                last: int = writer.execute(sql.TAKE_OFFSETS, (len(entries), partition_id)).fetchone()[0]
                lasts.append(last)
                first_key = (partition_id << sql.OFFSET_BITS) + last - len(entries) + 1
                rows = [
                    (key, entry.key, source, entry.position, entry.previous, now, entry.envelope, entry.data)
                    for key, entry in enumerate(entries, first_key)
                ]
                writer.executemany(sql.APPEND, rows)
                size += sum([len(row[6]) + len(row[7]) + _ROW_BYTES for row in rows])
            self._file.wrote(size)
        return lasts

    # --- read

    def reader(self, topic: str, partition: int, after: int) -> EmbeddedReader:
        return EmbeddedReader(self, topic, partition, after)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        partition_id = await self._partition_id(topic, partition)
        [(first_key, last)] = await self._fetch(sql.BOUNDS, (*_key_range(partition_id), partition_id))
        return Bounds(last + 1 if first_key is None else first_key & sql.OFFSET_MASK, last)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        """As the port says; in transactions of 500 records, so that appends come in between."""
        low, high = _key_range(await self._partition_id(topic, partition))
        pruned = 0
        while pruned < limit:
            chunk = min(PRUNE_ROWS, limit - pruned)
            old: list[int] = []
            async with self._file.transaction() as writer:
                for key, appended_at in writer.execute(sql.OLDEST, (low, high, chunk)).fetchall():
                    if appended_at >= before_s:
                        break  # the oldest only: what lies behind a young record stays
                    old.append(key)
                if old:
                    writer.execute(sql.PRUNE, (old[0], old[-1]))
                    self._file.wrote(len(old) * PAGE_BYTES // 4)
            pruned += len(old)
            if len(old) < chunk:
                break
            await asyncio.sleep(0)
        return pruned

    # --- partitions

    async def _partition_ids(self, topic: str) -> list[int]:
        """Row ids of a topic's partitions by number, empty for no such topic."""
        if await self._file.follow() or self._generation != self._file.generation:
            await self._begin_anew()
        ids = self._ids.get(topic)
        if ids is None:
            ids = [row[0] for row in await self._fetch(sql.PARTITION_IDS, (topic,))]
            if ids:
                self._ids[topic] = ids
        return ids

    async def _begin_anew(self) -> None:
        """The file is another one: make the topics that are known. The next read of each reader tells of it."""
        known, self._ids, self._generation = self._ids, {}, self._file.generation
        for topic, ids in known.items():
            await self.ensure_topic(topic, len(ids))

    def _replaced(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._file.path} was deleted or replaced by another log: subscribers read it from its start, and what "
            "it does not hold is asked for again",
            path=self._file.path,
        )

    async def _partition_id(self, topic: str, number: int) -> int:
        ids = await self._partition_ids(topic)
        check_partition(topic, number, len(ids))
        return ids[number]

    async def _fetch(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        return await self._file.query(lambda reader: reader.execute(statement, parameters).fetchall())


class EmbeddedReader(LookingReader[EmbeddedBroker]):
    def __init__(self, broker: EmbeddedBroker, topic: str, partition: int, after: int) -> None:
        super().__init__(broker, topic, partition, after)
        self._generation = broker._generation
        self._id = self._seen = 0

    async def _look(self, limit: int) -> Sequence[Message | Garbage]:
        broker, topic, partition = self._broker, self.topic, self.partition
        self._id = await broker._partition_id(topic, partition)
        if self._generation != broker._generation:
            self._generation = broker._generation
            raise broker._replaced()
        self._seen = broker._file.wakeup.sequence(self._id)
        low, high = _key_range(self._id)
        key_range = (low + self.after, high)
        return await broker._file.query(lambda reader: read_rows(reader, topic, partition, key_range, limit))

    async def _woken(self, seconds: float) -> None:
        await self._broker._file.wakeup.wait(self._id, self._seen, seconds)


def _key_range(partition_id: int) -> tuple[int, int]:
    """The keys of a partition's records lie above the first and up to the second."""
    low = partition_id << sql.OFFSET_BITS
    return low, low | sql.OFFSET_MASK
