"""Holes in what was received: to look at, to accept, to forget, to take back."""

from __future__ import annotations

import msgspec

from ensue.deciding import Deciding
from ensue.engine.rewind import before_last
from ensue.errors import UsageError
from ensue.message import Checkpoint, Gap, Partition
from ensue.operations.asked import Asked
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction
from ensue.views.ready import missing_through


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


async def forget(access: Opened, where: Partition, source: str, by: Deciding, shown: Gap | None = None) -> None:
    """Ask a source no more for what is missing. What it sends next may show the gap again. shown: the gap as somebody
    saw it; None: they do not say. Raises UsageError when there is none, or another one by now."""
    books = access.books

    async def note(transaction: StepTransaction, before: Checkpoint, after: Checkpoint) -> None:
        if shown is not None and not same(before.gaps[source], shown):
            raise UsageError(
                f"{where}: the gap in {source} is not what was shown any more, and nothing is forgotten: look at it "
                "again",
                source=source,
            )
        await books.record(transaction, by, "gaps forget", _target(where, source), before.gaps[source], None)

    await books.forget_gap(where, source, note)


def same(gap: Gap, shown: Gap) -> bool:
    """Whether a gap is what somebody saw: the same positions are missing, in the same state. What its source has sent
    since, behind them, is held back, and changes nothing of that."""
    return _what(gap) == _what(shown)


def _what(gap: Gap) -> tuple[object, ...]:
    return gap.source, gap.state, gap.watermark, missing_through(gap)


def positions_missing(gap: Gap) -> int:
    """How many positions a gap is about: those that are lost, or that are still asked for."""
    return max(missing_through(gap) - gap.watermark, 0)


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """How far a source is applied in a partition. watermark: the last position; message: of it, empty: unknown.
    before: the position that was applied before that one; None: the log does not tell, or was not asked (why)."""

    watermark: int
    message: str
    before: int | None
    why: str = ""


async def applied(access: Opened, where: Partition, source: str, answer_s: float | None = None) -> Applied:
    """How far a source is applied, and how far it was before its last record. The log is asked for that, if it is
    opened: from its beginning, which takes long for a long one. answer_s: for so long at most, and what fails there is
    `why`; None: until it answers; 0: it is not asked. Raises UsageError when nothing of the source was applied."""
    checkpoint = await access.books.checkpoint(where)
    if source not in checkpoint.watermarks:
        raise UsageError(f"{where}: nothing of {source} was applied", source=source)
    before, why = None, access.broker_error
    if access.broker is None or answer_s == 0:
        pass
    elif answer_s is None:
        before = await before_last(access.broker, where, checkpoint, source)
    else:
        ask = Asked(answer_s)
        before = await ask("log", before_last(access.broker, where, checkpoint, source), None)
        why = ask.unanswered.get("log", "")
    return Applied(
        watermark=checkpoint.watermarks[source], message=checkpoint.ids.get(source, ""), before=before, why=why
    )


async def rewind(
    access: Opened, where: Partition, source: str, position: int, by: Deciding, shown: int | None = None
) -> None:
    """Take back how far a source was applied: what it has written after the position is asked for again and applied.
    shown: how far it was applied when somebody looked; None: they do not say. Raises UsageError when it never was
    beyond the position, or is applied up to another one than was shown."""
    books = access.books

    async def note(transaction: StepTransaction, before: Checkpoint, after: Checkpoint) -> None:
        if shown is not None and before.watermarks[source] != shown:
            raise UsageError(
                f"{where}: {source} is applied up to position {before.watermarks[source]} now, and was up to {shown} "
                "when somebody looked: nothing is taken back; look at it again",
                source=source,
            )
        was, becomes = ({"watermark": each.watermarks[source]} for each in (before, after))
        await books.record(transaction, by, "gaps rewind", _target(where, source), was, becomes)

    await books.rewind(where, source, position, note)


def _target(where: Partition, source: str) -> str:
    return f"{where.place} {source}"
