"""Topics, bounds and retention: requests that block, each for at most timeout_s, so they run in threads.

Names here are full names, with the prefix. Offsets are Kafka's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # not in its __all__
from confluent_kafka.cimpl import NewTopic

from ensue.brokers.kafka.failures import GONE, MOVING, code, text, unavailable
from ensue.brokers.kafka.settings import KafkaSettings
from ensue.errors import UsageError
from ensue.ports import TopicTerms

T = TypeVar("T")

#: Retention is Ensue's (`prune`), by the time at which the broker appended, and no record is ever compacted away.
TOPIC_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
}
_REFUSED = frozenset(
    {
        KafkaError.TOPIC_EXCEPTION, KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION,
    }
)  # fmt: skip
_MAY_NOT_ASK = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
#: How long a topic's settings are believed.
_TERMS_S = 60.0
#: How often a topic that was just made is looked for.
_LOOK_S = 0.02


class Topics:
    """Asks by one consumer that reads nothing (a consumer's questions create no topics) and one admin client."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._timeout_s = settings.timeout_s
        self._consumer = Consumer(settings.consumer())
        self._admin: AdminClient | None = None
        #: What was told of topics, and until when that is believed.
        self._terms: dict[str, tuple[float, TopicTerms]] = {}

    def close(self) -> None:
        self._consumer.close()

    def listed(self) -> dict[str, int]:
        """All topics with the prefix but Kafka's own, and their partitions. Raises BrokerUnavailable."""
        found = self._ask("list topics", lambda: self._consumer.list_topics(timeout=self._timeout_s))
        prefix = self._settings.prefix
        return {
            name: len(topic.partitions)
            for name, topic in found.topics.items()
            if name.startswith(prefix) and not name.startswith("__") and topic.error is None
        }

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0: there is none. Raises BrokerUnavailable while one has no leader."""
        found, led = self._look(topic)
        if not led:
            raise unavailable(self._settings, f"look for {topic}", "a partition has no leader at the moment")
        return found

    def ensure(self, topic: str, partitions: int) -> int:
        """Create the topic unless it is there; return how many partitions it has, once those made now can be used."""
        until = time.monotonic() + self._timeout_s
        made = False
        while True:
            found, led = self._look(topic)
            if not found and led:
                self._create(topic, partitions)
                made = True
            elif led or (found and not made):  # a leader that is missing is missed by its partition alone
                return found
            if time.monotonic() > until:
                raise unavailable(self._settings, f"topic {topic}", f"no leader after {self._timeout_s:g} s")
            time.sleep(_LOOK_S)

    def _look(self, topic: str) -> tuple[int, bool]:
        """Return the number of partitions, and whether nothing of it waits for a leader."""
        found = self._ask(f"look for {topic}", lambda: self._consumer.list_topics(topic, timeout=self._timeout_s))
        metadata = found.topics.get(topic)
        if metadata is None or code(metadata.error) in GONE:
            return 0, True
        if code(metadata.error) == KafkaError.LEADER_NOT_AVAILABLE:
            return 0, False
        if metadata.error is not None:
            if code(metadata.error) in _REFUSED:
                raise UsageError(f"topic {topic}: Kafka refuses the name ({text(metadata.error)})", topic=topic)
            raise unavailable(self._settings, f"look for {topic}", metadata.error)
        return len(metadata.partitions), all(each.leader >= 0 for each in metadata.partitions.values())

    def _create(self, topic: str, partitions: int) -> None:
        """Create the topic; another may have been faster."""
        settings = self._settings
        config = TOPIC_CONFIG | {"max.message.bytes": str(settings.max_message_bytes + 64 * 1024)}
        new = NewTopic(topic, num_partitions=partitions, replication_factor=settings.replication, config=config)
        what = f"create topic {topic}"
        try:
            self._await(what, self._admins().create_topics([new], request_timeout=self._timeout_s)[topic])
        except KafkaException as error:
            if code(error.args[0]) in _REFUSED:
                raise UsageError(f"Kafka refuses to {what}: {text(error.args[0])}", topic=topic) from error
            if code(error.args[0]) != KafkaError.TOPIC_ALREADY_EXISTS:
                raise unavailable(settings, what, error.args[0]) from error

    def terms(self, topic: str) -> TopicTerms:
        """What the topic's settings mean for its records. Of an account that may not ask nothing is known."""
        known = self._terms.get(topic)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        where = ConfigResource(ConfigResource.Type.TOPIC, topic)
        what = f"settings of topic {topic}"
        try:
            found = self._await(what, self._admins().describe_configs([where], request_timeout=self._timeout_s)[where])
        except KafkaException as error:
            if code(error.args[0]) not in _MAY_NOT_ASK:
                raise unavailable(self._settings, what, error.args[0]) from error
            found = {}
        terms = _terms(topic, {name: str(entry.value) for name, entry in found.items()})
        self._terms[topic] = time.monotonic() + _TERMS_S, terms
        return terms

    def watermarks(self, topic: str, number: int) -> tuple[int, int]:
        """First offset held, and the one that the next record will get. Raises LookupError when it is gone."""
        where = TopicPartition(topic, number)
        what = f"bounds of {topic}/{number}"
        try:
            low, high = self._ask(
                what, lambda: self._consumer.get_watermark_offsets(where, timeout=self._timeout_s, cached=False)
            )
        except LookupError as error:
            # librdkafka says so too when it could not find out.
            if self._look(topic)[0] <= number:
                raise
            raise unavailable(self._settings, what, str(error)) from error
        return int(low), int(high)

    def prune(self, topic: str, number: int, before_s: float, limit: int) -> int:
        """Delete as the port says; return by how many offsets the log's start moved."""
        low, high = self.watermarks(topic, number)
        what = f"prune {topic}/{number}"
        at = TopicPartition(topic, number, max(int(before_s * 1000), 0))
        [young] = self._ask(what, lambda: self._consumer.offsets_for_times([at], timeout=self._timeout_s))
        if young.error is not None:
            raise unavailable(self._settings, what, young.error)
        # -1: nothing is as young as that.
        end = min(high if young.offset < 0 else young.offset, low + limit)
        if end <= low:
            return 0
        where = TopicPartition(topic, number, end)
        try:
            done = self._await(what, self._admins().delete_records([where], request_timeout=self._timeout_s)[where])
        except KafkaException as error:
            raise unavailable(self._settings, what, error.args[0]) from error
        return max(int(done.low_watermark) - low, 0)

    def _ask(self, what: str, question: Callable[[], T]) -> T:
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                return question()
            except KafkaException as error:
                if code(error.args[0]) in GONE:
                    raise LookupError(text(error.args[0])) from error
                if code(error.args[0]) not in MOVING or time.monotonic() > until:
                    raise unavailable(self._settings, what, error.args[0]) from error
            time.sleep(_LOOK_S)

    def _await(self, what: str, future: Future[Any]) -> Any:
        try:
            return future.result(self._timeout_s * 2)  # librdkafka keeps its own limit; this is for its absence
        except TimeoutError as error:
            raise unavailable(self._settings, what, "no answer") from error
        finally:
            self._admins().poll(0)  # its log lines

    def _admins(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._settings.common())
        return self._admin


def _terms(topic: str, settings: Mapping[str, str]) -> TopicTerms:
    todo = f"cleanup.policy=delete, retention.ms=-1 and retention.bytes=-1 for Kafka's topic {topic}"
    policy, size_max = settings.get("cleanup.policy", ""), settings.get("retention.bytes", "-1")
    drops = ""
    if "compact" in policy:
        drops = f"by cleanup.policy={policy}"
    elif not size_max.startswith("-"):
        drops = f"by retention.bytes={size_max}"
    age_ms = int(settings.get("retention.ms", "-1"))
    largest = settings.get("max.message.bytes")
    return TopicTerms(
        record_bytes_max=None if largest is None else int(largest),
        keeps_s=None if age_ms < 0 else age_ms / 1000,
        drops=drops,
        todo=todo,
    )
