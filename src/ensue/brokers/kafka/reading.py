"""Reading: cursors, one for each reader, and the fetchers that fill them.

A fetcher is one librdkafka consumer in one thread, and can be at one place of a partition: mostly one serves all, and a
second reader of a partition has its cursor in another. It uses assign with explicit offsets, never a group. It takes
what has arrived and puts it in its cursors' buffers; a cursor whose buffer is full is unassigned until it has room
again, and a fetcher whose cursors all have enough stops polling, so that librdkafka's own bounded queue holds back the
broker.
Only the fetcher's thread touches the consumer and changes where a cursor fetches; only the event loop takes records
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaRecord

from ensue.brokers.kafka.failures import GONE, text
from ensue.brokers.kafka.settings import KafkaSettings
from ensue.texts import logger

log = logger("ensue.kafka")

#: Below these a cursor wants more; above the others it takes no more.
LOW_RECORDS, HIGH_RECORDS = 1500, 6000
LOW_BYTES, HIGH_BYTES = 4 * 1024 * 1024, 16 * 1024 * 1024
#: A read stops after this much data, so that 500 records of 8 MB do not come at once.
_READ_BYTES_MAX = 8 * 1024 * 1024
#: Records taken from librdkafka at once.
_TAKE = 500
#: A blocked poll cannot be woken, so this is how long a new cursor may have to wait; short while cursors come and go.
_POLL_S, _POLL_SOON_S, _SOON_S = 0.1, 0.01, 1.0
#: How often a cursor beyond the end of its partition, or one that failed to find its place, is tried again.
_AGAIN_S = 0.5


class Cursor:
    """What was fetched of a partition from a place on, for one reader.

    fetched: the last offset (ours, from 1) that came, or is known to be no record.
    live: the end was seen, and everything since then is fetched as it comes.
    """

    __slots__ = (
        "again_at", "assigned", "dropped", "fetched", "fetcher", "live", "number", "problem", "received_bytes",
        "records", "taken_bytes", "topic", "waiter",
    )  # fmt: skip

    def __init__(self, fetcher: Fetcher, topic: str, number: int, after: int) -> None:
        self.fetcher = fetcher
        self.topic = topic
        self.number = number
        self.fetched = after
        self.records: deque[KafkaRecord] = deque()
        # Two counters, since the thread adds and the event loop takes away.
        self.received_bytes = 0
        self.taken_bytes = 0
        self.live = False
        self.problem = ""
        self.dropped = False
        self.assigned = False
        self.again_at = 0.0
        self.waiter: asyncio.Future[None] | None = None

    @property
    def hungry(self) -> bool:
        return len(self.records) < LOW_RECORDS and self.received_bytes - self.taken_bytes < LOW_BYTES

    @property
    def full(self) -> bool:
        return len(self.records) > HIGH_RECORDS or self.received_bytes - self.taken_bytes > HIGH_BYTES

    def take(self, limit: int) -> Iterator[KafkaRecord]:
        """Take up to `limit` records out of the buffer, or fewer when they are big.

        One by one: what arrives while the first are decoded comes in the same batch, so batches are fewer.
        """
        size = 0
        while self.records and limit > 0 and size <= _READ_BYTES_MAX:
            record = self.records.popleft()
            limit -= 1
            size += len(record)
            yield record
        self.taken_bytes += size
        if self.hungry:
            self.fetcher.more()

    async def woken(self, seconds: float) -> None:
        """Return when something came, or the cursor was dropped, or after `seconds`."""
        if self.dropped:
            return
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            # Looked at again after the thread can see the waiter, or what came in between would be slept through.
            if not self.records and not self.problem:
                await asyncio.wait((self.waiter,), timeout=seconds)
        finally:
            self.waiter = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Fetcher:
    """One consumer, its thread, and at most one cursor a partition."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        #: The event loop's view of which cursor is where.
        self.cursors: dict[tuple[str, int], Cursor] = {}
        self._fetching: dict[tuple[str, int], Cursor] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._wanted = threading.Event()
        self._soon_until = 0.0
        self._stopping = False
        self._topics: set[str] = set()  # of which this consumer knows where they are
        self._consumer = Consumer(settings.consumer() | {"error_cb": _trouble})
        self._thread = threading.Thread(target=self._run, name="ensue-kafka-consumer", daemon=True)
        self._thread.start()

    # --- on the event loop

    def begin(self, topic: str, number: int, after: int) -> Cursor:
        """Begin to fetch what comes after an offset of a partition that is free here."""
        cursor = self.cursors[topic, number] = Cursor(self, topic, number, after)
        self._command(lambda: self._begin(cursor))
        return cursor

    def drop(self, cursor: Cursor) -> None:
        del self.cursors[cursor.topic, cursor.number]
        cursor.dropped = True
        cursor.wake()
        self._command(lambda: self._end(cursor))

    def more(self) -> None:
        """A buffer has room again."""
        self._wanted.set()

    def stop(self) -> None:
        self._stopping = True
        self._wanted.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._soon_until = time.monotonic() + _SOON_S
        self._wanted.set()

    # --- in the thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._turn()
                except KafkaException as error:  # of the consumer as a whole
                    self._fail_all(text(error.args[0]))
                except Exception as error:
                    log.exception("a reader of Kafka failed where it should not; its readers are told, it goes on")
                    self._fail_all(repr(error))
        finally:
            self._consumer.close()

    def _turn(self) -> None:
        self._wanted.clear()
        while self._commands:
            self._commands.popleft()()
        cursors = list(self._fetching.values())
        for cursor in cursors:
            if not cursor.assigned and cursor.hungry and time.monotonic() >= cursor.again_at:
                self._assign(cursor)
        if not any(cursor.hungry for cursor in cursors):
            self._wanted.wait(_POLL_S)
            return
        first = self._consumer.poll(_POLL_SOON_S if time.monotonic() < self._soon_until else _POLL_S)
        if first is not None:
            # `consume` alone would hold a part-filled batch until its timeout.
            self._take([first, *self._consumer.consume(_TAKE - 1, 0)])

    def _begin(self, cursor: Cursor) -> None:
        if not cursor.dropped:
            self._fetching[cursor.topic, cursor.number] = cursor

    def _end(self, cursor: Cursor) -> None:
        key = (cursor.topic, cursor.number)
        if self._fetching.get(key) is cursor:
            del self._fetching[key]
        self._unassign(cursor)

    def _assign(self, cursor: Cursor) -> None:
        """Fetch from where the cursor stands. Whatever was on its way for an older assignment never arrives."""
        self._locate(cursor.topic)
        self._consumer.incremental_assign([TopicPartition(cursor.topic, cursor.number, cursor.fetched)])
        cursor.assigned = True

    def _locate(self, topic: str) -> None:
        """Ask for a topic's leaders. librdkafka looks for those of a topic that comes later once a second only."""
        if topic not in self._topics:
            try:
                self._consumer.list_topics(topic, timeout=_POLL_S)
                self._topics.add(topic)
            except KafkaException as error:
                log.debug("consumer: where %s is: %s", topic, text(error.args[0]))

    def _unassign(self, cursor: Cursor) -> None:
        if cursor.assigned:
            cursor.assigned = False
            self._consumer.incremental_unassign([TopicPartition(cursor.topic, cursor.number)])

    def _take(self, records: list[KafkaRecord]) -> None:
        touched: set[Cursor] = set()
        for record in records:
            cursor = self._fetching.get((record.topic() or "", record.partition() or 0))
            error = record.error()
            if cursor is None or not cursor.assigned:
                if error is not None:
                    log.debug("consumer: %s", error.str())
                continue  # of a cursor that was dropped, or that stopped in this very batch
            if error is not None:
                self._heed(cursor, error, record.offset() or 0)
            else:
                cursor.received_bytes += len(record)
                cursor.fetched = (record.offset() or 0) + 1
                cursor.records.append(record)
            touched.add(cursor)
        for cursor in touched:
            if cursor.full:
                self._unassign(cursor)
                cursor.live = False
        self._wake([cursor for cursor in touched if cursor.waiter is not None])

    def _heed(self, cursor: Cursor, error: KafkaError, end: int) -> None:
        """What came in a record's place."""
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            # What is between the last record and the end is none: a transaction's marker.
            cursor.fetched = max(cursor.fetched, end)
            cursor.live = True
        elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._find_place(cursor)
        elif code in GONE or code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION):
            self._unassign(cursor)
            self._topics.discard(cursor.topic)
            cursor.again_at = time.monotonic() + _AGAIN_S
            cursor.problem = error.str()
        else:
            log.warning("reading %s/%d: %s", cursor.topic, cursor.number, error.str())

    def _find_place(self, cursor: Cursor) -> None:
        """The log does not hold the next offset: below its first the reader goes on there; beyond its end it waits,
        and its owner, who compares it with the bounds, takes it back."""
        self._unassign(cursor)
        cursor.again_at = time.monotonic() + _AGAIN_S
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(cursor.topic, cursor.number), timeout=min(self._settings.timeout_s, 2.0)
            )
        except KafkaException as error:
            log.warning("reading %s/%d: %s", cursor.topic, cursor.number, text(error.args[0]))
            return
        if cursor.fetched < low:
            cursor.fetched = low
        if cursor.fetched <= high:
            cursor.again_at = 0.0
        else:
            cursor.live = True

    def _fail_all(self, problem: str) -> None:
        log.warning("consumer: %s", problem)
        for cursor in self._fetching.values():
            cursor.problem = problem
        self._wake(list(self._fetching.values()))
        self._wanted.wait(_POLL_S)

    def _wake(self, cursors: list[Cursor]) -> None:
        if cursors:
            with contextlib.suppress(RuntimeError):  # the event loop was closed without us
                self._loop.call_soon_threadsafe(_wake_all, cursors)


class Fetchers:
    """All cursors of one broker: each in the first fetcher where its partition is free."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._fetchers: list[Fetcher] = []
        self._ended: list[Fetcher] = []

    def begin(self, topic: str, number: int, after: int) -> Cursor:
        fetcher = next((each for each in self._fetchers if (topic, number) not in each.cursors), None)
        if fetcher is None:
            fetcher = Fetcher(self._settings)
            self._fetchers.append(fetcher)
        return fetcher.begin(topic, number, after)

    def end(self, cursor: Cursor) -> None:
        """Drop the cursor, if it is not dropped yet; a fetcher without cursors ends, but for the first."""
        fetcher = cursor.fetcher
        if not cursor.dropped:
            fetcher.drop(cursor)
        if not fetcher.cursors and fetcher in self._fetchers[1:]:
            self._fetchers.remove(fetcher)
            fetcher.stop()
            self._ended = [*(each for each in self._ended if each.alive), fetcher]

    def forget(self, topic: str) -> None:
        """The topic is gone: so are its cursors."""
        for fetcher in tuple(self._fetchers):
            for cursor in [each for each in fetcher.cursors.values() if each.topic == topic]:
                self.end(cursor)

    def stop(self) -> list[Fetcher]:
        """End all threads; return the fetchers, to be joined."""
        for fetcher in self._fetchers:
            fetcher.stop()
        return [*self._fetchers, *self._ended]


def _trouble(error: KafkaError) -> None:
    """A connection failed; librdkafka goes on trying."""
    log.debug("consumer: %s", error.str())


def _wake_all(cursors: list[Cursor]) -> None:
    for cursor in cursors:
        cursor.wake()
