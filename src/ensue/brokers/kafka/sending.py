"""Sending: one idempotent producer, a thread that takes its delivery reports, and appends that wait for them.

A report costs a call under the interpreter's lock, so the thread only counts; the event loop hears of an append once,
when its last report has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaRecord

from ensue.brokers.kafka.failures import not_appended, unavailable
from ensue.brokers.kafka.settings import KafkaSettings
from ensue.brokers.kafka.wire import Record
from ensue.errors import BrokerUnavailable
from ensue.texts import logger

log = logger("ensue.kafka")

#: How long the thread waits for a report before it looks whether it should end.
_POLL_S = 0.1
#: A full queue of the producer is looked at again after this time.
_FULL_S = 0.005


class Append:
    """The delivery reports of one append: `expected` of them, counted by the producer's thread alone."""

    __slots__ = ("error", "expected", "last", "reported", "result", "sender")

    def __init__(self, expected: int, sender: Sender) -> None:
        self.result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.expected = expected
        self.sender = sender
        self.reported = 0
        self.error: KafkaError | None = None
        #: Kafka's offset of the last record of each (full topic name, partition).
        self.last: dict[tuple[str, int], int] = {}

    def report(self, error: KafkaError | None, record: KafkaRecord) -> None:
        self.reported += 1
        if error is not None and self.error is None:
            self.error = error
            self.sender.broken = True
        if self.reported == self.expected:
            self.sender.finished.append(self)

    def report_last(self, error: KafkaError | None, record: KafkaRecord) -> None:
        """The report of the last record of a partition."""
        if error is None:
            self.last[str(record.topic()), int(record.partition() or 0)] = int(record.offset() or 0)
        self.report(error, record)

    def end(self) -> None:
        if not self.result.done():
            self.result.set_result(None)


class Sender:
    """A producer. After its first failure it is `broken` for good: what is left in its queue is thrown away, so that it
    can never be sent behind newer records, and the caller makes another one. What was on the wire may still arrive:
    records once more, in their order.

    A record that failed may have later ones of its append behind it in the log, when its own request alone was lost.
    Then it is the chain that keeps readers from taking them before it came again.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(settings.producer() | {"error_cb": self._trouble})
        self._last_trouble = ""
        self._pending: set[Append] = set()
        #: Appends whose last report came in this turn of the thread.
        self.finished: list[Append] = []
        self._stopping = False
        self.broken = False
        self._thread = threading.Thread(target=self._run, name="ensue-kafka-producer", daemon=True)
        self._thread.start()

    async def send(self, batches: Mapping[tuple[str, int], Sequence[Record]]) -> dict[tuple[str, int], int]:
        """Append batches by full topic name and partition; return the last offset (Kafka's) of each that has any.

        Raises BrokerUnavailable, RecordRefused. Cancelled: what was handed to the producer goes its way, in order.
        """
        append = Append(sum(map(len, batches.values())), self)
        if not append.expected:
            return {}
        self._pending.add(append)
        try:
            for (topic, number), records in batches.items():
                await self._hand(append, topic, number, records)
            await append.result
        except KafkaException as error:
            self.broken = True
            raise not_appended(self._settings, error.args[0], self._last_trouble) from error
        finally:
            self._pending.discard(append)
        if append.error is not None:
            raise not_appended(self._settings, append.error, self._last_trouble)
        return append.last

    async def _hand(self, append: Append, topic: str, number: int, records: Sequence[Record]) -> None:
        produce = self._producer.produce
        report = append.report
        waited_s = 0.0
        end = len(records) - 1
        for index, (key, headers, value) in enumerate(records):
            if index == end:
                report = append.report_last
            while True:
                try:
                    produce(topic, value, key, number, report, None, 0, headers)
                    break
                except BufferError as error:  # the queue is full: the broker is slow, or away
                    if waited_s > self._settings.timeout_s or self.broken:
                        self.broken = True
                        raise self._unavailable("the producer's queue is full") from error
                    waited_s += _FULL_S
                    await asyncio.sleep(_FULL_S)

    @property
    def alive(self) -> bool:
        """Whether its thread has still something to clear away."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Throw away what is queued and end the thread; does not wait. Appends that wait raise BrokerUnavailable."""
        self._stopping = True

    def join(self) -> None:
        """Wait until the thread has ended (after `stop`)."""
        self._thread.join()

    # --- in the thread

    def _run(self) -> None:
        try:
            while not self._stopping and not self.broken:
                self._producer.poll(_POLL_S)
                self._hand_over()
            while len(self._producer):
                self._producer.purge()  # their reports come as failures
                self._producer.poll(_POLL_S)
                self._hand_over()
            self._producer.close()
        finally:
            self.broken = True
            with contextlib.suppress(RuntimeError):  # the event loop was closed without us
                self._loop.call_soon_threadsafe(self._give_up)

    def _hand_over(self) -> None:
        if not self.finished:
            return
        finished, self.finished = self.finished, []
        with contextlib.suppress(RuntimeError):  # the event loop was closed without us
            self._loop.call_soon_threadsafe(_end_all, finished)

    def _give_up(self) -> None:
        """No report comes any more: nobody may wait for one."""
        for append in self._pending:
            if not append.result.done():
                append.result.set_exception(self._unavailable("the producer was closed"))

    def _trouble(self, error: KafkaError) -> None:
        """A connection failed; librdkafka goes on trying. Its reports of the records themselves come later."""
        self._last_trouble = error.str()
        log.debug("producer: %s", self._last_trouble)

    def _unavailable(self, error: KafkaError | str) -> BrokerUnavailable:
        return unavailable(self._settings, "append", error, self._last_trouble)


def _end_all(appends: list[Append]) -> None:
    for append in appends:
        append.end()
