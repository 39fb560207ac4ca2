"""What a broker takes of an append, and what it leaves: one partition must not stop the others.

A broker may refuse one record for ever, take no batch as large as ours, or not answer for one partition. What is left
is found by asking again: each partition alone, and a refused batch in halves down to the record. All of it may be in
the log twice then; the chain makes that harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ensue.engine.context import Context
from ensue.errors import BrokerUnavailable, RecordRefused, UsageError
from ensue.message import OutboxRecord
from ensue.texts import logger

log = logger("ensue.relay")

Where = tuple[str, int]
Batches = Mapping[Where, Sequence[OutboxRecord]]

#: Partitions tried at once, each of which may have to wait for a broker that does not answer for it.
_AT_ONCE = 8
#: What one append carries at most, unless one record alone is larger: a broker has to hold all of it at once.
APPEND_BYTES_MAX = 8 << 20


class Left(NamedTuple):
    """The first record of a partition that was not taken, and why: nothing behind it was sent either."""

    record: OutboxRecord
    error: BrokerUnavailable | UsageError

    @property
    def refused(self) -> bool:
        """Whether the broker has said no; else it does not answer for this partition."""
        return not isinstance(self.error, BrokerUnavailable)


class Sending:
    """Makes topics before their first records, and appends."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known_topics: set[str] = set()

    def forget(self) -> None:
        """The broker may have lost its topics."""
        self._known_topics.clear()

    async def append(self, source: str, batches: Batches, *, more: bool = False) -> dict[Where, Left]:
        """Append all that the broker takes, each partition up to the first record that it does not; return those.

        more: records of other partitions wait behind these. Raises BrokerUnavailable when the broker takes nothing at
        two tries: who alone is not answered for cannot be told from a broker that is away, nor need be if nobody waits.
        """
        left: dict[Where, Left] = {}
        for topic in dict.fromkeys(topic for topic, _ in batches):
            if error := await self._made(topic):
                left |= {where: Left(records[0], error) for where, records in batches.items() if where[0] == topic}
        parts = _parts({where: records for where, records in batches.items() if where not in left})
        for part in parts:
            going = {where: records for where, records in part.items() if where not in left}
            if going:
                left |= await self._append_part(source, going)
        if left and len(left) == len(batches) and not any(each.refused for each in left.values()):
            if not more:
                raise next(iter(left.values())).error.again()
            await self._context.broker.topics()
        return left

    async def append_alone(self, source: str, where: Where, records: Sequence[OutboxRecord]) -> Left | None:
        """Append the records of one partition; return the first that is not taken. Does not raise what that says."""
        if error := await self._made(where[0]):
            return Left(records[0], error)
        return await self._in_pieces(source, where, records)

    async def _made(self, topic: str) -> BrokerUnavailable | UsageError | None:
        """Make a topic that is not known; return why it cannot be."""
        if topic not in self._known_topics:
            try:
                terms = await self._context.broker.ensure_topic(topic, self._context.partitions)
            except (BrokerUnavailable, UsageError) as error:
                return error
            self._context.dispatcher.heed(topic, terms)
            self._known_topics.add(topic)
        return None

    @contextmanager
    def _sending(self, batches: Batches) -> Iterator[None]:
        """The broker is asked to append these in this block."""
        context = self._context
        began, failed = context.clock.monotonic(), None
        try:
            with context.tracing.send(batches):
                yield
        except BaseException as error:
            failed = error
            raise
        finally:
            context.measured.sent(context.clock.monotonic() - began, failed)

    async def _append_part(self, source: str, batches: Batches) -> dict[Where, Left]:
        broker = self._context.broker
        try:
            with self._sending(batches):
                await broker.append_many(source, batches)
        except RecordRefused:
            # One after the other: a refusal may cost all that is under way.
            found = {where: await self._in_pieces(source, where, records) for where, records in batches.items()}
            return {where: left for where, left in found.items() if left is not None}
        except BrokerUnavailable as error:
            await broker.topics()  # raises when it is not only some partitions that do not answer
            log.warning("relay of %s: %s; once more, each partition by itself", self._context.service, error)
            return await self._alone(source, batches)
        return {}

    async def _alone(self, source: str, batches: Batches) -> dict[Where, Left]:
        """Each partition by itself, some at once."""
        left: dict[Where, Left] = {}
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(where: Where, records: Sequence[OutboxRecord]) -> None:
            async with limit:
                if found := await self._in_pieces(source, where, records):
                    left[where] = found

        async with asyncio.TaskGroup() as group:
            for where, records in batches.items():
                group.create_task(one(where, records))
        return left

    async def _in_pieces(self, source: str, where: Where, records: Sequence[OutboxRecord]) -> Left | None:
        """As `append_alone`. What is refused as a whole is tried in halves, down to one record."""
        begin, size = 0, len(records)
        while begin < len(records):
            piece = records[begin : begin + size]
            try:
                with self._sending({where: piece}):
                    await self._context.broker.append(*where, source, piece)
            except BrokerUnavailable as error:
                self._known_topics.discard(where[0])  # it may be gone
                return Left(piece[0], error)
            except RecordRefused as error:
                before = next((at for at, each in enumerate(piece) if each.position == error.position), len(piece) // 2)
                if not before:
                    return Left(piece[0], error)
                size = before
            else:
                begin += len(piece)
        return None


def _parts(batches: Batches) -> Sequence[Batches]:
    """Split by size; each partition's records stay in order."""
    sizes = [len(each.data) + len(each.envelope) for records in batches.values() for each in records]
    if sum(sizes) < APPEND_BYTES_MAX:
        return [batches] if batches else []  # the usual case
    parts: list[dict[Where, list[OutboxRecord]]] = []
    size = APPEND_BYTES_MAX
    for where, records in batches.items():
        for record in records:
            if size >= APPEND_BYTES_MAX:
                parts.append({})
                size = 0
            parts[-1].setdefault(where, []).append(record)
            size += len(record.data) + len(record.envelope)
    return parts
