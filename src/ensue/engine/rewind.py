"""Take back how far a source was applied, when a record that it never wrote has moved that: up to where it was before.

The log tells: whoever reads it from its beginning comes by the same steps to the same place.
"""

from __future__ import annotations

from ensue.chain import Verdict, judge
from ensue.engine.lookup import records_between
from ensue.message import LOST, Checkpoint, Garbage, Message, Partition
from ensue.ports import Broker

#: Records read at once.
_WINDOW = 1000


async def before_last(broker: Broker, partition: Partition, checkpoint: Checkpoint, source: str) -> int | None:
    """Return how far `source` was applied before the record at its watermark was; None: the log does not tell, since it
    does not hold that record any more, or the one before it."""
    watermark, last = checkpoint.watermarks[source], checkpoint.ids.get(source, "")
    first, end = await broker.bounds(partition.topic, partition.number)
    applied: int | None = None
    for begin in range(first - 1, min(end, checkpoint.offset), _WINDOW):
        through = min(begin + _WINDOW, end)
        for record in await records_between(broker, partition.topic, partition.number, begin, through):
            if isinstance(record, Garbage) or record.source != source or not _moves(record):
                continue
            if record.position == watermark and last in ("", record.id):
                return applied
            if applied is None or judge(applied, record.previous, record.position) is Verdict.APPLY:
                applied = record.position
    return None


def _moves(record: Message) -> bool:
    return record.previous < record.position and record.type != LOST
