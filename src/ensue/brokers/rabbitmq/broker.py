"""The broker on RabbitMQ: a stream queue for each partition, and one that holds the topics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ensue.brokers import check_partition, check_partitions, check_partitions_wanted
from ensue.brokers.rabbitmq.connection import Connection, Refused
from ensue.brokers.rabbitmq.frames import publish_arguments
from ensue.brokers.rabbitmq.session import Following, Session, new_token
from ensue.brokers.rabbitmq.settings import RabbitMqSettings
from ensue.brokers.rabbitmq.terms import terms_of
from ensue.brokers.rabbitmq.wire import head_of, message_of, source_fields
from ensue.brokers.reading import BaseReader, HasReaders
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Capabilities, Entry, TopicTerms


class RabbitMqBroker(HasReaders):
    """A log in stream queues of RabbitMQ 3.9 or newer: `amqp://user:password@host:5672/vhost`, `amqps://` for TLS.

    Options of the URL: `prefix` of all queue names, `timeout_s` (5), `heartbeat_s` (10), `max_age` (e.g. `7D`)
    and `segment_bytes` of streams that are made, `cafile`, `certfile`, `keyfile`.
    Queues: `<prefix><topic>.<partition>`, and `<prefix>ensue.topics`. The stream plugin is not needed.

    RabbitMQ drops old records by itself, by whole segments (`max_age`), and nobody can ask it to: `prune` does nothing.
    A confirmation says that a quorum of the stream's replicas has the record, not that it is on a disk.
    """

    capabilities = Capabilities(sessions=False, power_loss_safe=False, prunes=False)

    def __init__(self, url: str) -> None:
        super().__init__()
        self._settings = RabbitMqSettings.of(url)
        self._session: Session | None = None
        self._is_open = False
        self._connecting: asyncio.Task[Session] | None = None
        self._terms: dict[str, TopicTerms] = {}

    async def exists(self) -> bool:
        if self._is_open:
            return await (await self._get()).has_registry()
        session = Session(await self._connect_first())
        try:
            return await session.has_registry()
        finally:
            await session.close()

    async def open(self) -> None:
        """Raises BrokerUnavailable after timeout_s, UsageError on credentials, virtual host or version refused."""
        if self._is_open:
            return
        session = Session(await self._connect_first())
        try:
            await session.refresh_topics()
        except BaseException:
            await session.close()
            raise
        self._session, self._is_open = session, True

    async def close(self) -> None:
        self._is_open = False
        await self._close_readers()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait((connecting,))
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _connect_first(self) -> Connection:
        try:
            return await Connection.open(self._settings)
        except Refused as error:
            raise UsageError(str(error), **error.values) from error

    async def _get(self) -> Session:
        """The live session, or a new one: of all that ask while there is none, one connects."""
        session = self._session
        if session is not None and session.is_open:
            return session
        if not self._is_open:
            raise BrokerUnavailable(f"the broker at {self._settings.place} is not open")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._reconnect())
        connecting = self._connecting
        try:
            # A caller that is cancelled does not take the connection from the others.
            await asyncio.wait((connecting,))
        finally:
            if self._connecting is connecting and connecting.done():
                self._connecting = None
        if connecting.cancelled():
            raise BrokerUnavailable(f"the broker at {self._settings.place} is not open")
        error = connecting.exception()
        if isinstance(error, BrokerUnavailable):
            raise error.again()
        return connecting.result()

    async def _reconnect(self) -> Session:
        old, self._session = self._session, None
        if old is not None:
            await old.close()
        session = Session(await Connection.open(self._settings))
        self._session = session
        return session

    # --- topics

    async def ensure_topic(self, topic: str, partitions: int) -> TopicTerms:
        check_partitions_wanted(topic, partitions)
        session = await self._get()
        if topic not in session.topics.counts:
            await session.refresh_topics()
        if topic not in session.topics.counts:
            await session.add_topic(topic, partitions)
        found = session.topics.counts.get(topic, 0)
        check_partitions(topic, partitions, found)
        queues = [self._queue(topic, number) for number in range(found)]
        await session.ensure_streams(queues)
        if topic not in self._terms:
            terms = TopicTerms()
            for queue in queues:
                terms = terms.stricter(await terms_of(session.connection, queue))
            self._terms[topic] = terms
        return self._terms[topic]

    async def partitions(self, topic: str) -> int:
        session = await self._get()
        if topic not in session.topics.counts:
            await session.refresh_topics()
        return session.topics.counts.get(topic, 0)

    async def topics(self) -> Mapping[str, int]:
        """Raises BrokerUnavailable also while publishing is blocked: readiness asks for the topics."""
        session = await self._get()
        session.check_unblocked()
        await session.refresh_topics()
        return dict(session.topics.counts)

    # --- append

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        if not entries:
            return (await self.bounds(topic, partition)).last
        session = await self._partition(topic, partition)
        queue = self._queue(topic, partition)
        # A confirmation does not tell the offset: the last record carries an id by which it is found again.
        token = new_token()
        await session.publish(self._messages(topic, partition, source, entries, token))
        session.appended(queue)
        return await session.find(queue, token) + 1

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        messages: list[tuple[bytes, bytes, bytes]] = []
        session = await self._get()
        for (topic, partition), entries in batches.items():
            session = await self._partition(topic, partition)
            messages += self._messages(topic, partition, source, entries, "")
        for topic, partition in batches:
            session.appended(self._queue(topic, partition))
        try:
            await session.publish(messages)
        finally:
            for topic, partition in batches:
                session.appended(self._queue(topic, partition))

    def _messages(
        self, topic: str, partition: int, source: str, entries: Sequence[Entry], token: str
    ) -> list[tuple[bytes, bytes, bytes]]:
        arguments = publish_arguments(self._queue(topic, partition))
        common = source_fields(source, partition)
        messages = [(arguments, head_of(each, common), each.data) for each in entries]
        if token:
            messages[-1] = (arguments, head_of(entries[-1], common, token), entries[-1].data)
        return messages

    # --- read

    def reader(self, topic: str, partition: int, after: int) -> RabbitMqReader:
        return RabbitMqReader(self, topic, partition, after)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        session = await self._partition(topic, partition)
        queue = self._queue(topic, partition)
        last = await session.last(queue)
        return Bounds(await session.streams.first(queue, last) + 1, last + 1)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        """Nothing: see the class."""
        await self._partition(topic, partition)
        return 0

    # --- partitions

    def _queue(self, topic: str, partition: int) -> str:
        return f"{self._settings.prefix}{topic}.{partition}"

    async def _partition(self, topic: str, partition: int) -> Session:
        session = await self._get()
        count = session.topics.counts.get(topic)
        if count is None:
            await session.refresh_topics()
            count = session.topics.counts.get(topic, 0)
        check_partition(topic, partition, count)
        return session


class RabbitMqReader(BaseReader[RabbitMqBroker]):
    _following: Following | None = None

    async def _read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        broker, topic, partition = self._broker, self.topic, self.partition
        session = await broker._partition(topic, partition)
        if self._following is None or self._following.session is not session:  # of a connection that broke
            self._following = Following(session, broker._queue(topic, partition), self.after - 1)
        return [
            message_of(topic, partition, each.offset + 1, each.content.headers, each.content.content_type, each.body)
            for each in await self._following.read(limit, wait_s)
        ]

    def _let_go(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.close()
