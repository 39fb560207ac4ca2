"""Entries as the columns of one INSERT, in pieces that a server takes gladly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ensue.ports import Entry

#: One statement carries about this much data, or this many records.
BYTES_MAX = 8 * 1024 * 1024
RECORDS_MAX = 10_000

Batches = Mapping[int, Sequence[Entry]]


def chunks(batches: Batches) -> Iterator[Batches]:
    """Split by size; each partition's entries stay in order. Nothing comes for nothing."""
    chunk: dict[int, list[Entry]] = {}
    size = count = 0
    for partition_id, entries in batches.items():
        for entry in entries:
            if count and (size >= BYTES_MAX or count >= RECORDS_MAX):
                yield chunk
                chunk, size, count = {}, 0, 0
            chunk.setdefault(partition_id, []).append(entry)
            size += len(entry.data)
            count += 1
    if chunk:
        yield chunk


def columns(source: bytes, batches: Batches) -> tuple[Any, ...]:
    """Return the arguments of `Statements.append`."""
    entries = [entry for each in batches.values() for entry in each]
    return (
        list(batches),
        [len(each) for each in batches.values()],
        source,
        [partition_id for partition_id, each in batches.items() for _ in each],
        [nth for each in batches.values() for nth in range(1, len(each) + 1)],
        [entry.position for entry in entries],
        [entry.previous for entry in entries],
        [entry.key.encode() for entry in entries],
        [entry.envelope for entry in entries],
        [entry.data for entry in entries],
    )
