"""What is known and open while its connections live: the publisher, readers, ends of streams, topics.

Publishing has a connection of its own: of one that publishes a server reads nothing while it is short of memory or
disk, no acknowledgement of a reader either. When one of the two breaks, all is forgotten: the server that comes back
may be another one.

Places here count from 0, as RabbitMQ does; the broker's offsets are greater by one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from ensue.brokers.rabbitmq import frames
from ensue.brokers.rabbitmq.channel import check_unblocked
from ensue.brokers.rabbitmq.connection import Connection
from ensue.brokers.rabbitmq.making import declare, making, stream_arguments
from ensue.brokers.rabbitmq.publisher import Publisher
from ensue.brokers.rabbitmq.reader import Reader, Record
from ensue.brokers.rabbitmq.streams import Streams
from ensue.brokers.rabbitmq.topics import RECORD_PROPERTIES, Topics, encode_topic
from ensue.errors import BrokerUnavailable, RecordRefused

#: A read stops after this much data, so that 500 records of 10 MB do not come at once.
READ_BYTES_MAX = 8 * 1024 * 1024
_REGISTRY_PREFETCH = 1000
#: Seen with 3.10: the list of what the server has to start is written a second after the first stream was made.
_IF_IT_LASTS = (
    "for a moment after its start this is as it should be; if it lasts, the server was killed right after it had made "
    "its very first stream and has forgotten that it has any: give it another prefix, and the outboxes fill the new log"
)


class Session:
    """Of one connection, and of another one once something is published. Raises BrokerUnavailable from everything that
    needs one which is lost."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.topics = Topics()
        self.streams = Streams(connection, self.publish_marker)
        self.ensured: set[str] = set()
        self._registry = f"{connection.settings.prefix}ensue.topics"
        self._registry_records = Following(self, self._registry, -1)
        self._refreshing = asyncio.Lock()
        self._publishing: Connection | None = None
        self._publisher: Publisher | None = None
        self._publisher_lock = asyncio.Lock()
        self._making_lock = asyncio.Lock()

    async def close(self) -> None:
        for each in self._connections():
            await each.close()

    @property
    def is_open(self) -> bool:
        return all(each.is_open for each in self._connections())

    def check_unblocked(self) -> None:
        """Raise BrokerUnavailable while the server takes nothing that is published."""
        for each in self._connections():
            check_unblocked(each)

    def _connections(self) -> Sequence[Connection]:
        return [self.connection] if self._publishing is None else [self.connection, self._publishing]

    # --- publishing

    async def publish(self, messages: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        """As Publisher.publish, on a channel that is opened again when it was lost; raises RecordRefused too."""
        async with self._publisher_lock:
            publisher = self._publisher
            if publisher is None or not publisher.is_open:
                connection = await self._to_publish()
                channel = await connection.channel()
                publisher = Publisher(connection, channel, connection.timeout_s, connection.place, self.lost)
                try:
                    await publisher.begin()
                except BaseException:
                    channel.close()
                    raise
                self._publisher = publisher
        try:
            await publisher.publish(messages)
        except BrokerUnavailable as error:
            if error.values.get("code") not in _REFUSED:
                raise
            raise RecordRefused(
                f"{error}: raise its max_message_size or grant the permission, or publish a reference instead of the "
                "data"
            ) from error

    async def _to_publish(self) -> Connection:
        if self._publishing is None:
            connection = await self.connection.another()
            if not self.connection.is_open:
                await connection.close()  # nobody else would: this session has ended meanwhile
                self.connection.check()
            self._publishing = connection
        return self._publishing

    async def publish_marker(self, queue: str) -> None:
        await self.publish([(frames.publish_arguments(queue), _MARKER_PROPERTIES, b"")])

    def lost(self, queue: str) -> None:
        """A stream is gone: nothing that was known of it holds."""
        self.ensured.discard(queue)
        self.streams.forget(queue)
        if queue == self._registry:
            self.topics = Topics()
            self._registry_records.close()
            self._registry_records = Following(self, queue, -1)

    # --- streams and topics

    async def ensure_streams(self, queues: Sequence[str], *, keep_all: bool = False) -> None:
        """Make the streams that are missing, with a marker as first record. keep_all: without the log's retention."""
        if all(queue in self.ensured for queue in queues):
            return
        connection = self.connection
        async with making(connection, self._making_lock, f"{self._registry}.making"):
            for queue in queues:
                if queue not in self.ensured:
                    if not await self.declared(queue):
                        await declare(connection, queue, stream_arguments(connection.settings, keep_all=keep_all))
                        await self.publish_marker(queue)
                    self.ensured.add(queue)

    async def declared(self, queue: str) -> bool:
        """Whether there is such a queue. The answer "no" costs the channel on which it was asked."""
        channel = await self.connection.channel()
        try:
            passive = b"\x00\x00" + frames.short(queue) + b"\x01" + frames.table({})
            await channel.call(frames.QUEUE_DECLARE, passive, frames.QUEUE_DECLARE_OK)
        except BrokerUnavailable as error:
            # The same code says that a server which has just started has not found its streams yet. Only the words,
            # which RabbitMQ has in one language, tell the two apart.
            if error.values.get("code") == _NOT_FOUND:
                if "no queue" in str(error):
                    return False
                raise BrokerUnavailable(f"{error} ({_IF_IT_LASTS})", **error.values) from error
            raise
        finally:
            channel.close()
        return True

    async def has_registry(self) -> bool:
        return await self.declared(self._registry)

    async def refresh_topics(self) -> None:
        """Read what is new in the registry."""
        async with self._refreshing:
            await self.ensure_streams([self._registry], keep_all=True)
            topics, records = self.topics, self._registry_records
            last = await self.last(self._registry)
            while records.after < last:
                topics.learn(await records.read(_REGISTRY_PREFETCH, 0.0))

    async def add_topic(self, topic: str, partitions: int) -> None:
        """Ask for a topic; the first record of it in the registry is the one that counts."""
        message = (frames.publish_arguments(self._registry), RECORD_PROPERTIES, encode_topic(topic, partitions))
        await self.publish([message])
        self.appended(self._registry)
        await self.refresh_topics()

    # --- reading

    def appended(self, queue: str) -> None:
        """This process has appended: what was known of the stream's end is old."""
        self.streams.appended(queue)

    async def last(self, queue: str) -> int:
        try:
            return await self.streams.last(queue)
        except BrokerUnavailable as error:
            self.if_lost(queue, error)
            raise

    def if_lost(self, queue: str, error: BrokerUnavailable) -> None:
        if self.connection.is_open and error.values.get("code") in (_NOT_FOUND, None):
            self.lost(queue)

    async def find(self, queue: str, token: str) -> int:
        """Return the place of the message with this id, which is confirmed, so that it lies near the end."""
        return await self.streams.find(queue, token.encode())


class Following:
    """Reads a stream on from a place, by a consumer that it begins with the first read and anew after an error.

    after: the place of the last record returned, or the one it was made with.
    """

    def __init__(self, session: Session, queue: str, after: int) -> None:
        self.session = session
        self.after = after
        self._queue = queue
        self._reader: Reader | None = None

    async def read(self, limit: int, wait_s: float) -> Sequence[Record]:
        """As the port's read, in places of the stream."""
        try:
            if self._reader is None:
                self._reader = await self.session.streams.reader(self._queue, self.after + 1, 2 * limit)
            records = await self._taken(self._reader, limit, wait_s)
        except BrokerUnavailable as error:
            self.close()
            self.session.if_lost(self._queue, error)
            raise
        if records:
            self.after = records[-1].offset
        return records

    async def _taken(self, reader: Reader, limit: int, wait_s: float) -> Sequence[Record]:
        connection = self.session.connection
        if records := reader.take(limit, READ_BYTES_MAX):
            return records
        if wait_s > 0:
            return reader.take(limit, READ_BYTES_MAX) if await reader.wait(wait_s) else ()
        # What is there is on its way; and whether there is something, the end of the stream tells.
        if await self.session.streams.last(self._queue) <= self.after:
            return ()
        if not await reader.wait(connection.timeout_s):
            raise BrokerUnavailable(
                f"rabbitmq at {connection.place} has records of {self._queue} after offset {self.after + 1} and "
                f"did not send them within {connection.timeout_s:g} s"
            )
        return reader.take(limit, READ_BYTES_MAX)

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self.session.streams.drop(reader)


_NOT_FOUND = 404
#: Content too large, access refused, precondition failed (3.8 and later: larger than max_message_size).
_REFUSED = frozenset({311, 403, 406})
_MARKER_PROPERTIES = frames.properties("", frames.text_field("ensuemarker", "1"))


def new_token() -> str:
    return secrets.token_hex(12)
