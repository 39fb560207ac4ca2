"""The rules of order and of "exactly once": apply, skip or gap. Pure functions; no I/O, no clock.

A source's records in one partition form a chain: each carries its own position and that of the one before it.
A subscriber keeps one watermark per source and partition. That is enough to know a duplicate from a hole, without a
row per message and without a window after which a duplicate slips through.
"""

from __future__ import annotations

import enum
import zlib


class Verdict(enum.IntEnum):
    APPLY = 0
    SKIP = 1
    GAP = 2


def judge(watermark: int, previous: int, position: int) -> Verdict:
    """Decide what a record means to a subscriber that has applied everything up to `watermark`.

    A tick has previous == position, so it is a duplicate or a gap and never applied.

    >>> judge(6, previous=6, position=7).name, judge(7, 6, 7).name, judge(6, 7, 8).name
    ('APPLY', 'SKIP', 'GAP')
    """
    if position <= watermark:
        return Verdict.SKIP
    if previous <= watermark:
        return Verdict.APPLY
    return Verdict.GAP


def partition_of(key: str, partitions: int) -> int:
    """Map a key to one of `partitions` partitions; stable across processes, machines and versions (CRC-32)."""
    return zlib.crc32(key.encode()) % partitions
