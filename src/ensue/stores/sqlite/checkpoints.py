"""Checkpoints: one row a subscription and partition, guarded by a revision; watermarks, one row a source.

The guard is what makes a zombie worker harmless: its transaction finds another revision and rolls back as a whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from ensue.message import Checkpoint, Counters, Gap, Partition
from ensue.stores import rules

_encode = msgspec.json.Encoder().encode
_read_counters = msgspec.json.Decoder(Counters).decode
_read_gaps = msgspec.json.Decoder(dict[str, Gap]).decode

_INSERT = (
    'INSERT INTO ensue_checkpoint ("offset", counters, gaps, revision, subscription, topic, partition) '
    "VALUES (?, ?, ?, 1, ?, ?, ?)"
)
_UPDATE = (
    'UPDATE ensue_checkpoint SET "offset" = ?, counters = ?, gaps = ?, revision = revision + 1 '
    "WHERE subscription = ? AND topic = ? AND partition = ? AND revision = ?"
)
_SET_WATERMARK = (
    "INSERT INTO ensue_watermark (subscription, topic, partition, source, position) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET position = excluded.position"
)
_LOAD = (
    'SELECT subscription, topic, partition, "offset", revision, counters, gaps FROM ensue_checkpoint '
    "WHERE subscription = ? AND topic = ? AND partition = ?"
)
_LOAD_ALL = (
    'SELECT subscription, topic, partition, "offset", revision, counters, gaps FROM ensue_checkpoint '
    "ORDER BY subscription, topic, partition"
)
_WATERMARKS = "SELECT source, position FROM ensue_watermark WHERE subscription = ? AND topic = ? AND partition = ?"


def save(connection: sqlite3.Connection, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
    """Save under the revision that was loaded; raise CheckpointConflict when the stored one is another."""
    values = (checkpoint.offset, _encode(checkpoint.counters).decode(), _encode(checkpoint.gaps).decode())
    if checkpoint.revision:
        saved = connection.execute(_UPDATE, (*values, *partition, checkpoint.revision)).rowcount == 1
    else:
        try:
            connection.execute(_INSERT, (*values, *partition))
            saved = True
        except sqlite3.IntegrityError:
            saved = False
    if not saved:
        raise rules.checkpoint_moved(partition, checkpoint.revision)
    for source in sources:
        connection.execute(_SET_WATERMARK, (*partition, source, checkpoint.watermarks[source]))


def load(connection: sqlite3.Connection, partition: Partition) -> Checkpoint:
    row = connection.execute(_LOAD, partition).fetchone()
    return Checkpoint() if row is None else _checkpoint(connection, partition, row)


def load_all(connection: sqlite3.Connection) -> dict[Partition, Checkpoint]:
    found: dict[Partition, Checkpoint] = {}
    for row in connection.execute(_LOAD_ALL).fetchall():
        partition = Partition(*row[:3])
        found[partition] = _checkpoint(connection, partition, row)
    return found


def accept_loss(connection: sqlite3.Connection, partition: Partition, source: str) -> int:
    """Move the watermark to what is lost; return it. What the gap needs beyond that stays asked for."""
    checkpoint = load(connection, partition)
    gap = checkpoint.gaps.get(source)
    left = rules.accepted(partition, source, gap)
    assert gap is not None
    del checkpoint.gaps[source]
    if left is not None:
        checkpoint.gaps[source] = left
    checkpoint.watermarks[source] = gap.lost_through
    save(connection, partition, checkpoint, (source,))
    return gap.lost_through


def _checkpoint(connection: sqlite3.Connection, partition: Partition, row: tuple[int | str, ...]) -> Checkpoint:
    _, _, _, offset, revision, counters, gaps = row
    return Checkpoint(
        offset=int(offset),
        revision=int(revision),
        watermarks=dict(connection.execute(_WATERMARKS, partition)),
        gaps=_read_gaps(str(gaps)),
        counters=_read_counters(str(counters)),
    )
