"""Checkpoints: one row a subscription and partition, guarded by a revision; watermarks, one row a source.

The guard is what makes a zombie worker harmless: its transaction finds another revision and rolls back as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ensue.message import Checkpoint, Counters, Gap, Partition
from ensue.stores import rules
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link

_encode = msgspec.json.Encoder().encode
_read_counters = msgspec.json.Decoder(Counters).decode
_read_gaps = msgspec.json.Decoder(dict[str, Gap]).decode

_SELECT = (
    "SELECT c.subscription, c.topic, c.partition_no, c.log_offset, c.revision, c.counters, c.gaps, w.source, "
    "w.position FROM ensue_checkpoint c LEFT JOIN ensue_watermark w ON w.subscription = c.subscription "
    "AND w.topic = c.topic AND w.partition_no = c.partition_no"
)
LOAD = f"{_SELECT} WHERE c.subscription = ? AND c.topic = ? AND c.partition_no = ?"
LOAD_ALL = f"{_SELECT} ORDER BY c.subscription, c.topic, c.partition_no"


async def save(
    link: Link, dialect: Dialect, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]
) -> None:
    """Save under the revision that was loaded; raise CheckpointConflict when the stored one is another."""
    texts = (_encode(checkpoint.counters).decode(), _encode(checkpoint.gaps).decode())
    if not await dialect.save_checkpoint(link, partition, checkpoint, sorted(set(sources)), texts):
        raise rules.checkpoint_moved(partition, checkpoint.revision)


async def load(link: Link, dialect: Dialect, partition: Partition) -> Checkpoint:
    """By one statement, so that offset and watermarks are of one moment."""
    found = _checkpoints(await link.fetch(dialect.text(LOAD), *partition))
    return found.get(partition) or Checkpoint()


async def load_all(link: Link) -> dict[Partition, Checkpoint]:
    return _checkpoints(await link.fetch(LOAD_ALL))


async def accept_loss(link: Link, dialect: Dialect, partition: Partition, source: str) -> int:
    """Move the watermark to what is lost; return it. What the gap needs beyond that stays asked for."""
    checkpoint = await load(link, dialect, partition)
    gap = checkpoint.gaps.get(source)
    left = rules.accepted(partition, source, gap)
    assert gap is not None
    del checkpoint.gaps[source]
    if left is not None:
        checkpoint.gaps[source] = left
    checkpoint.watermarks[source] = gap.lost_through
    await save(link, dialect, partition, checkpoint, (source,))
    return gap.lost_through


def _checkpoints(rows: Sequence[Sequence[Any]]) -> dict[Partition, Checkpoint]:
    found: dict[Partition, Checkpoint] = {}
    for subscription, topic, number, offset, revision, counters, gaps, source, position in rows:
        partition = Partition(subscription, topic, number)
        checkpoint = found.get(partition)
        if checkpoint is None:
            checkpoint = found[partition] = Checkpoint(
                offset=offset,
                revision=revision,
                watermarks={},
                gaps=_read_gaps(gaps),
                counters=_read_counters(counters),
            )
        if source is not None:
            checkpoint.watermarks[source] = position
    return found
