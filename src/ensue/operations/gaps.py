"""Holes in what was received: to look at, to accept, to forget, to take back."""

from __future__ import annotations

import msgspec

from ensue.deciding import Deciding
from ensue.errors import UsageError
from ensue.message import Checkpoint, Gap, Partition
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction


class GapAt(msgspec.Struct, frozen=True):
    """One gap, and in which partition."""

    topic: str
    partition: int
    gap: Gap

    def where(self, access: Opened) -> Partition:
        return Partition(access.service.name, self.topic, self.partition)


async def gaps(access: Opened) -> list[GapAt]:
    """All of them, by partition and source."""
    return [
        GapAt(partition.topic, partition.number, gap)
        for partition, checkpoint in sorted((await access.books.checkpoints()).items())
        for _, gap in sorted(checkpoint.gaps.items())
    ]


async def accept(access: Opened, where: Partition, shown: Gap, by: Deciding) -> int:
    """Go on without what is lost of a source; return the position behind which it goes on. shown: the gap as somebody
    saw it: what is lost besides by now nobody has agreed to go on without. Raises UsageError unless that gap is lost,
    and for a view, of which it has to be kept what it goes on without."""
    if access.service.is_view:
        raise UsageError(
            f"{access.service.name} is a view, of which it is kept what it goes on without: ensue views accept-missing "
            f"{access.target}"
        )
    books, source = access.books, shown.source

    async def note(transaction: StepTransaction, gap: Gap, left: Gap | None) -> None:
        await books.record(transaction, by, "gaps accept", _target(where, source), gap, left)

    return await books.accept_loss(where, source, note, shown)


async def forget(access: Opened, where: Partition, source: str, by: Deciding) -> None:
    """Ask a source no more for what is missing. What it sends next may show the gap again. Raises UsageError when there
    is none."""
    books = access.books

    async def note(transaction: StepTransaction, before: Checkpoint, after: Checkpoint) -> None:
        await books.record(transaction, by, "gaps forget", _target(where, source), before.gaps[source], None)

    await books.forget_gap(where, source, note)


async def rewind(access: Opened, where: Partition, source: str, position: int, by: Deciding) -> None:
    """Take back how far a source was applied: what it has written after the position is asked for again and applied.
    Raises UsageError when it never was beyond that."""
    books = access.books

    async def note(transaction: StepTransaction, before: Checkpoint, after: Checkpoint) -> None:
        was, becomes = ({"watermark": each.watermarks[source]} for each in (before, after))
        await books.record(transaction, by, "gaps rewind", _target(where, source), was, becomes)

    await books.rewind(where, source, position, note)


def _target(where: Partition, source: str) -> str:
    return f"{where.place} {source}"
