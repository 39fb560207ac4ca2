"""What the log has of one partition, a page at a time, from any offset on. Takes nothing, and moves nobody's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ensue.errors import UsageError
from ensue.message import Garbage, Message
from ensue.operations.opening import Opened

#: In one read: each record may have a megabyte.
_AT_ONCE = 10


class LogLine(msgspec.Struct, kw_only=True):
    """One record. source, position, previous, headers: of a message; position 0: its sender has no chain. garbage: why
    it is no message; empty: it is one. data: its bytes, as they are in the log."""

    offset: int
    key: str
    source: str = ""
    position: int = 0
    previous: int = 0
    headers: dict[str, Any] = {}
    garbage: str = ""
    data: bytes


class LogPage(msgspec.Struct, kw_only=True):
    """first, last: offsets that the partition holds now; last below first: it holds nothing. next: where the next page
    begins; 0: there is nothing behind this one yet."""

    first: int
    last: int
    records: list[LogLine]
    next: int = 0


async def log_topics(access: Opened) -> Mapping[str, int]:
    """The topics of the log that the service reads or publishes to, and how many partitions each has. Those of others
    are not for whoever may see this service. Raises UsageError when there is no log."""
    there = await access.need_broker().topics()
    own = {*access.service.subscribed_topics, *access.service.publishes_to(there)}
    return {topic: count for topic, count in sorted(there.items()) if topic in own}


async def log_page(access: Opened, topic: str, partition: int, begin: int, records_max: int, bytes_max: int) -> LogPage:
    """Up to records_max records, in the order of their offsets, from the offset `begin` on; what retention took of
    these is passed over. bytes_max: of their data in all; fewer records are returned when they have more, at least one.
    Raises UsageError for a partition that is not there, or not the service's."""
    broker, topics = access.need_broker(), await log_topics(access)
    if not 0 <= partition < topics.get(topic, 0):
        there = ", ".join(f"{name} (0 to {count - 1})" for name, count in topics.items()) or "none"
        raise UsageError(
            f"{topic[:80]}/{partition} is no partition that {access.service.name} reads or publishes to: the log has "
            f"{there}",
            topic=topic,
            partition=partition,
        )
    first, last = await broker.bounds(topic, partition)
    page, size = LogPage(first=first, last=last, records=[]), 0
    reader = broker.reader(topic, partition, max(begin, first) - 1)
    try:
        while reader.after < last and (batch := await reader.read(_AT_ONCE, 0.0)):
            for each in batch:
                size += len(each.data)
                if each.offset > last:
                    return page  # it came meanwhile: the next look has it
                if len(page.records) == records_max or (size > bytes_max and page.records):
                    page.next = each.offset
                    return page
                page.records.append(_line(each))
    finally:
        await reader.close()
    return page


def _line(record: Message | Garbage) -> LogLine:
    if isinstance(record, Garbage):
        return LogLine(offset=record.offset, key=record.key, garbage=record.reason, data=record.data)
    return LogLine(
        offset=record.offset, key=record.key, source=record.source, position=record.position,
        previous=record.previous, headers=dict(record.headers), data=record.data,
    )  # fmt: skip
