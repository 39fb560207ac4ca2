"""Reading a stream queue from a place on: a consumer on a channel of its own, and what it has delivered so far."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import NamedTuple

from ensue.brokers.rabbitmq import frames
from ensue.brokers.rabbitmq.channel import Channel, Listener
from ensue.brokers.rabbitmq.frames import Content
from ensue.brokers.rabbitmq.wire import MARKER, OFFSET
from ensue.errors import BrokerUnavailable, UsageError

_PREFETCH_MAX = 65_535
_PRECONDITION_FAILED = 406


def no_stream(queue: str) -> UsageError:
    return UsageError(f"queue {queue} is no stream: delete it, or use another prefix (`?prefix=`)", queue=queue)


class Record(NamedTuple):
    """offset: as the stream counts, from 0. tag: of the delivery."""

    offset: int
    tag: int
    content: Content
    body: bytes

    @property
    def is_marker(self) -> bool:
        return MARKER in self.content.headers


class Reader(Listener):
    """Delivers the records of a stream from a place on. The server sends ahead up to `prefetch` records.

    seen: the last offset delivered, markers included, as far as known. last: the same, markers left out.
    """

    def __init__(self, channel: Channel, queue: str) -> None:
        self._channel = channel
        self.queue = queue
        self.seen = -1
        self.last = -1
        self._prefetch = 0
        self._records: deque[Record] = deque()
        self._arrived = asyncio.Event()
        self._error: BrokerUnavailable | UsageError | None = None
        channel.listener = self

    async def begin(self, place: int | str, prefetch: int) -> None:
        """place: an offset, or "first" or "last" (the last chunk, of at least one record). Raises BrokerUnavailable."""
        self._prefetch = min(prefetch, _PREFETCH_MAX)
        if isinstance(place, int):
            self.seen = place - 1
        qos = struct.pack(">IHB", 0, self._prefetch, 0)
        await self._channel.call(frames.BASIC_QOS, qos, frames.BASIC_QOS_OK)
        consume = (
            b"\x00\x00" + frames.short(self.queue) + frames.short("r") + b"\x00"
            + frames.table({"x-stream-offset": place})
        )  # fmt: skip
        try:
            await self._channel.call(frames.BASIC_CONSUME, consume, frames.BASIC_CONSUME_OK)
        except BrokerUnavailable as error:
            if error.values.get("code") == _PRECONDITION_FAILED:  # the offset means nothing to other queues
                raise no_stream(self.queue) from error
            raise

    def close(self) -> None:
        self._channel.close()

    @property
    def is_open(self) -> bool:
        return self._error is None and self._channel.is_open

    @property
    def at_the_end(self) -> bool:
        """Whether all that was delivered is taken, so that the server sends what comes at once."""
        return self.is_open and not self._records

    def check(self) -> None:
        if self._error is not None:
            raise self._error.again()
        self._channel.check()

    def take(self, limit: int, bytes_max: int) -> list[Record]:
        """Return up to `limit` records that have come, and let the server send as many more. Raises BrokerUnavailable
        when nothing is left and nothing can come any more."""
        records: list[Record] = []
        size = 0
        while self._records and len(records) < limit and size < bytes_max:
            record = self._records.popleft()
            records.append(record)
            size += len(record.body)
        if records:
            if self.is_open:
                self._acknowledge(records[-1].tag)
        else:
            self._arrived.clear()
            self.check()
        return records

    async def wait(self, timeout_s: float) -> bool:
        """Wait until there is something to take, or an error to raise; False when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    async def synchronise(self) -> None:
        """Return when everything that the server had begun to send has come."""
        qos = struct.pack(">IHB", 0, self._prefetch, 0)
        await self._channel.call(frames.BASIC_QOS, qos, frames.BASIC_QOS_OK)

    # --- what comes in

    def delivered(self, tag: int, content: Content, body: bytes) -> None:
        offset = content.headers.get(OFFSET)
        if not isinstance(offset, int):
            self.failed(no_stream(self.queue))
            self.close()
            return
        if offset <= self.seen:
            self._acknowledge(tag)  # of the chunk in which our place lies, but before it
            return
        self.seen = offset
        record = Record(offset, tag, content, body)
        if record.is_marker:
            if not self._records:
                self._acknowledge(tag)
            return
        self.last = offset
        self._records.append(record)
        self._arrived.set()

    def _acknowledge(self, tag: int) -> None:
        """All up to here: it is what gives the server leave to send as many more."""
        self._channel.send(frames.BASIC_ACK, struct.pack(">QB", tag, 1))

    def failed(self, error: BrokerUnavailable | UsageError) -> None:
        if self._error is None:
            self._error = error
        self._arrived.set()


class Probe(Reader):
    """A reader that looks at the end or the beginning: it counts markers too, and takes nothing."""

    def __init__(self, channel: Channel, queue: str) -> None:
        super().__init__(channel, queue)
        self.lowest = -1

    def delivered(self, tag: int, content: Content, body: bytes) -> None:
        super().delivered(tag, content, body)
        if self.lowest < 0:
            self.lowest = self.seen
        self._arrived.set()

    async def until(self, place: int) -> None:
        """Return when `place` was seen, or a later one. Raises BrokerUnavailable."""
        while self.seen < place:
            if self._records:
                self._acknowledge(self._records[-1].tag)
            self._arrived.clear()
            self.check()
            await self._arrived.wait()

    async def first(self, through: int) -> int | None:
        """Return the first place with a record; None when up to `through`, which exists, are markers only."""
        while not self._records:
            if self.seen >= through:
                return None
            self._arrived.clear()
            self.check()
            await self._arrived.wait()
        return self._records[0].offset

    def place_of(self, message_id: bytes) -> int | None:
        return next((each.offset for each in self._records if each.content.id == message_id), None)
