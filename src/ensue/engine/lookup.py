"""Looking something up in the log, between two offsets and without waiting."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ensue.message import Garbage, Message
from ensue.ports import Broker

#: Records of one read: as many as a batch of a subscriber has, since they may be large.
_AT_ONCE = 500


async def records_between(
    broker: Broker, topic: str, partition: int, after: int, through: int
) -> list[Message | Garbage]:
    """Return the records with offsets in (after, through] that are there now."""
    return [each async for each in each_between(broker, topic, partition, after, through)]


async def each_between(
    broker: Broker, topic: str, partition: int, after: int, through: int
) -> AsyncGenerator[Message | Garbage, None]:
    """As `records_between`, one by one: no more of them are in memory than one read brings."""
    reader = broker.reader(topic, partition, after)
    try:
        while reader.after < through and (batch := await reader.read(min(through - reader.after, _AT_ONCE), 0.0)):
            for each in batch:
                if each.offset <= through:
                    yield each
    finally:
        await reader.close()
