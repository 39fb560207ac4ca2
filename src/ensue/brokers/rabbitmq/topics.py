"""The topics of a log: a stream of their own, `<prefix>ensue.topics`, with a record for each that was ever made.

Its order decides: of two that make one topic at once with different partitions, the first record counts. So nobody
needs the management plugin, and a listing costs one read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from ensue.brokers.rabbitmq.frames import properties
from ensue.brokers.rabbitmq.reader import Record
from ensue.codec import PARTITIONS_MAX


class TopicRecord(msgspec.Struct, frozen=True):
    topic: str
    partitions: Annotated[int, msgspec.Meta(ge=1, le=PARTITIONS_MAX)]


_decoder = msgspec.json.Decoder(TopicRecord)
RECORD_PROPERTIES = properties("application/json", b"")


def encode_topic(topic: str, partitions: int) -> bytes:
    return msgspec.json.encode(TopicRecord(topic, partitions))


class Topics:
    """What the stream says, as far as it was read."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def learn(self, records: Sequence[Record]) -> None:
        """Take note of the next records. What is no topic was written by a stranger and says nothing."""
        for record in records:
            try:
                found = _decoder.decode(record.body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            self.counts.setdefault(found.topic, found.partitions)
