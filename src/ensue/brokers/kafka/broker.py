"""The Kafka broker: the port's partitioned log is Kafka's own; offsets are Kafka's + 1."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, TypeVar

import confluent_kafka

from ensue.brokers import check_partition, check_partitions, check_partitions_wanted
from ensue.brokers.kafka.failures import unavailable
from ensue.brokers.kafka.reading import Cursor, Fetcher, Fetchers
from ensue.brokers.kafka.sending import Sender
from ensue.brokers.kafka.settings import parse_kafka_url
from ensue.brokers.kafka.topics import Topics
from ensue.brokers.kafka.wire import decode, encode
from ensue.brokers.reading import BaseBroker, BaseReader
from ensue.embedded.threads import in_thread
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Capabilities, Entry, TopicTerms

T = TypeVar("T")

#: The first version whose `consume` was measured to give whole batches again.
_LIBRARY = (2, 16, 1)
#: Requests under way at once, of all partitions.
_THREADS = 4


class _Open:
    """What is there between open and close."""

    def __init__(self, topics: Topics, fetchers: Fetchers, sender: Sender, threads: ThreadPoolExecutor) -> None:
        self.topics = topics
        self.fetchers = fetchers
        self.sender = sender
        self.threads = threads
        self.retired: list[Sender] = []
        #: Partitions of topics seen, by full name.
        self.known: dict[str, int] = {}
        #: Topics that were gone when they were asked for, though they had been there.
        self.gone: set[str] = set()
        #: The highest last offset (ours) known of a partition.
        self.ends: dict[tuple[str, int], int] = {}


class KafkaBroker(BaseBroker):
    """`kafka://host:9092,host2:9092`, `kafkas://user:password@host:9093`, with the options

    prefix: before each topic's name, so that several systems can share a cluster. replication: of topics made here
    (default: the cluster's). security: plaintext, ssl, sasl_plaintext, sasl_ssl (default: by scheme and user).
    mechanism: of SASL (PLAIN). ca, certificate, key, key_password: of TLS, paths of PEM files. timeout_s: any request
    (10). max_message_bytes: the largest record (8 MiB). conf.<name>: any other librdkafka property.

    An append is acknowledged by all in-sync replicas; Kafka answers before it syncs to disk, so that a power cut of
    all replicas at once may take the last records away. Subscribers then see a gap in the chain and get them again.
    """

    capabilities = Capabilities(sessions=False, power_loss_safe=False)

    def __init__(self, url: str) -> None:
        super().__init__()
        self._settings = parse_kafka_url(url)
        self._prefix = self._settings.prefix
        self._state: _Open | None = None

    async def exists(self) -> bool:
        topics = self._new(Topics)
        try:
            return bool(await asyncio.to_thread(topics.listed))
        finally:
            await asyncio.shield(asyncio.to_thread(topics.close))

    async def open(self) -> None:
        """Raises BrokerUnavailable after timeout_s at the latest; UsageError on settings librdkafka does not take."""
        if self._state is not None:
            return
        if _version() < _LIBRARY:
            raise UsageError(
                f"confluent-kafka is {_version()}, expected {_LIBRARY} or later: pip install -U 'ensue[kafka]'"
            )
        topics = self._new(Topics)
        try:
            known = await asyncio.to_thread(topics.listed)
            sender = self._new(Sender)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(topics.close))
            raise
        threads = ThreadPoolExecutor(_THREADS, "ensue-kafka-request")
        self._state = _Open(topics, Fetchers(self._settings), sender, threads)
        self._state.known = known

    async def close(self) -> None:
        await self._close_readers()
        state, self._state = self._state, None
        if state is None:
            return
        fetchers = state.fetchers.stop()
        for each in (state.sender, *state.retired):
            each.stop()
        await asyncio.shield(in_thread(None, functools.partial(_finish, state, fetchers)))

    # --- topics

    async def ensure_topic(self, topic: str, partitions: int) -> TopicTerms:
        check_partitions_wanted(topic, partitions)
        state, name = self._opened(), self._prefix + topic
        found = await self._ask(state, state.topics.ensure, name, partitions)
        state.known[name] = found
        check_partitions(topic, partitions, found)
        terms = await self._ask(state, state.topics.terms, name)
        if self._settings.compresses:  # how large a record is then, nobody knows before it is sent
            return dataclasses.replace(terms, record_bytes_max=None)
        return terms

    async def partitions(self, topic: str) -> int:
        state, name = self._opened(), self._prefix + topic
        found = await self._ask(state, state.topics.partitions, name)
        if found:
            state.known[name] = found
        else:
            self._forget(state, name)
        return found

    async def topics(self) -> Mapping[str, int]:
        state = self._opened()
        found = await self._ask(state, state.topics.listed)
        state.known.update(found)
        return {name.removeprefix(self._prefix): count for name, count in found.items()}

    # --- append

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        ready = {
            (await self._checked(topic, number), number): encode(source, number, entries)
            for (topic, number), entries in batches.items()
        }
        state = self._opened()
        if state.sender.broken:
            state.retired = [each for each in state.retired if each.alive] + [state.sender]
            state.sender = self._new(Sender)
        last = await state.sender.send(ready)
        for where, offset in last.items():
            state.ends[where] = max(state.ends.get(where, 0), offset + 1)
        return [last[where] + 1 for where in ready]

    # --- read

    def reader(self, topic: str, partition: int, after: int) -> KafkaReader:
        return KafkaReader(self, topic, partition, after)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """`last` may be the offset of a transaction's marker, of a foreign producer: no record is there to be read."""
        state, name = self._opened(), await self._checked(topic, partition)
        low, high = await self._ask(state, state.topics.watermarks, name, partition)
        state.ends[name, partition] = high
        return Bounds(low + 1, high)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        """As the port says. Markers of foreign transactions count as records."""
        state, name = self._opened(), await self._checked(topic, partition)
        return await self._ask(state, state.topics.prune, name, partition, before_s, limit)

    # --- helpers

    def _opened(self) -> _Open:
        if self._state is None:
            raise self._closed()
        return self._state

    def _closed(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"the broker at kafka://{self._settings.servers} is not open: call open() first")

    async def _checked(self, topic: str, number: int) -> str:
        """Return the topic's full name. Raises UsageError when it never had such a partition."""
        state, name = self._opened(), self._prefix + topic
        known = state.known.get(name) or await self.partitions(topic)
        if not known and name in state.gone:
            raise self._gone(name)
        check_partition(topic, number, known)
        return name

    async def _ask(self, state: _Open, question: Callable[..., T], *arguments: Any) -> T:
        """Run a request in a thread. A topic that is gone is BrokerUnavailable: whoever needs it makes it again."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(state.threads, functools.partial(question, *arguments))
        except RuntimeError as error:  # the threads were shut down
            if state is self._state:
                raise
            raise self._closed() from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if state is self._state or task is None or task.cancelling():
                raise
            raise self._closed() from error  # the request was, by close; not whoever asked
        except LookupError as error:
            name = str(arguments[0])
            self._forget(state, name)
            raise self._gone(name) from error

    def _forget(self, state: _Open, name: str) -> None:
        if state.known.pop(name, 0):
            state.gone.add(name)
        state.fetchers.forget(name)

    def _gone(self, name: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self._settings.servers}: topic {name} is gone: it was deleted. ensure_topic makes it again",
            topic=name.removeprefix(self._prefix),
        )

    def _new(self, kind: Callable[..., T]) -> T:
        """Make a part that has a librdkafka client."""
        try:
            return kind(self._settings)
        except confluent_kafka.KafkaException as error:
            raise UsageError(f"Kafka URL: librdkafka refuses its settings: {error.args[0].str()}") from error


def _finish(state: _Open, fetchers: Sequence[Fetcher]) -> None:
    """Wait for all threads; blocks for at most the settings' timeout."""
    state.threads.shutdown(wait=True, cancel_futures=True)
    for fetcher in fetchers:
        fetcher.join()
    for sender in (state.sender, *state.retired):
        sender.join()
    state.topics.close()


class KafkaReader(BaseReader[KafkaBroker]):
    _cursor: Cursor | None = None

    async def _read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        broker, topic, partition = self._broker, self.topic, self.partition
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        looked = False
        while True:
            state, name = broker._opened(), await broker._checked(topic, partition)
            if self._cursor is None or self._cursor.dropped:
                self._cursor = state.fetchers.begin(name, partition, self.after)
            cursor = self._cursor
            if cursor.problem:
                raise unavailable(broker._settings, f"read {topic}/{partition}", cursor.problem)
            if found := [decode(record, topic, partition) for record in cursor.take(limit)]:
                return found
            now = loop.time()
            at_the_end = cursor.live and cursor.fetched >= state.ends.get((name, partition), 0)
            if now < until and not (looked and at_the_end):
                await cursor.woken(until - now)
            elif at_the_end:
                return []
            elif looked:  # and still nothing of what the broker said it had
                raise unavailable(broker._settings, f"read {topic}/{partition}", "no answer")
            elif (await broker.bounds(topic, partition)).last <= self.after:
                return []  # the wait is over, and there is nothing at the broker either
            else:
                looked = True
                until = loop.time() + broker._settings.timeout_s

    def _let_go(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None and self._broker._state is not None:
            self._broker._state.fetchers.end(cursor)


def _version() -> tuple[int, ...]:
    return tuple(int(each) for each in version("confluent-kafka").split(".")[:3] if each.isdigit())
