"""Looking something up in the log, between two offsets and without waiting."""

from __future__ import annotations

from ensue.message import Garbage, Message
from ensue.ports import Broker


async def records_between(
    broker: Broker, topic: str, partition: int, after: int, through: int
) -> list[Message | Garbage]:
    """Return the records with offsets in (after, through] that are there now."""
    found: list[Message | Garbage] = []
    reader = broker.reader(topic, partition, after)
    try:
        while reader.after < through and (batch := await reader.read(through - reader.after, 0.0)):
            found += batch
    finally:
        await reader.close()
    while found and found[-1].offset > through:
        found.pop()
    return found
