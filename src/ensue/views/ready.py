"""Whether one version of a view has come as far as another one, and what of the log it has not. Pure rules.

Watermarks only grow and both versions are fed, so what was seen to be ready stays ready; nothing is committed for it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from ensue.message import Checkpoint, DeadLetter, Gap, GapState
from ensue.views.states import Accepted

Where = tuple[str, int]
"""A topic and the number of a partition."""


class Kind(enum.StrEnum):
    BEHIND = "behind"  # time heals it
    INCOMPLETE = "incomplete"  # a source's beginning, or a piece of it, is not to be had
    LETTER = "dead letter"


class Obstacle(msgspec.Struct, frozen=True):
    """Why a version is not ready. text: in words, with what to do. after, through: of what is missing or not applied
    yet. final: nothing heals it by itself."""

    kind: Kind
    topic: str
    partition: int
    text: str
    source: str = ""
    after: int = 0
    through: int = 0
    final: bool = False


def lines(found: Iterable[Obstacle]) -> list[str]:
    """For people: what is true of many partitions is said once.

    >>> lines([Obstacle(Kind.BEHIND, "orders", number, "nothing of it is read yet") for number in range(3)])
    ['orders/0, orders/1, orders/2 behind: nothing of it is read yet']
    """
    where: dict[tuple[Kind, str], list[str]] = {}
    for each in found:
        where.setdefault((each.kind, each.text), []).append(f"{each.topic}/{each.partition}")
    return [f"{', '.join(partitions)} {kind}: {text}" for (kind, text), partitions in where.items()]


class Standing(msgspec.Struct, frozen=True):
    """How far a version is. letters: what it has set aside."""

    checkpoints: Mapping[Where, Checkpoint]
    letters: Sequence[DeadLetter] = ()


def obstacles(
    active: Standing | None,
    other: Standing,
    wanted: Collection[Where],
    ends: Mapping[Where, int],
    accepted: Sequence[Accepted] = (),
) -> list[Obstacle]:
    """Return what keeps `other` from taking the place of `active` (None: there is none); nothing when it is ready.

    wanted: what `other` reads. ends: the log's last offsets, for partitions that `active` does not read, and of which
    it therefore says nothing. accepted: what `other` goes on without.
    """
    found: list[Obstacle] = []
    known = {(each.topic, each.partition, each.source) for each in accepted}
    for where in sorted(wanted):
        mine = other.checkpoints.get(where, Checkpoint())
        theirs = None if active is None else active.checkpoints.get(where)
        found += [_of_gap(where, gap) for _, gap in sorted(mine.gaps.items())]
        if not mine.revision:
            found.append(Obstacle(Kind.BEHIND, *where, "nothing of it is read yet"))
            continue
        if mine.catching_up is not None:
            types = ", ".join(mine.catching_up.types)
            found.append(Obstacle(Kind.BEHIND, *where, f"it is read again for {types}"))
        if theirs is None:
            if mine.offset < ends.get(where, 0):
                text = f"it is read up to offset {mine.offset} of {ends[where]}"
                found.append(Obstacle(Kind.BEHIND, *where, text, "", mine.offset, ends[where]))
            continue
        for source, watermark in sorted(theirs.watermarks.items()):
            reached = mine.watermarks.get(source, 0)
            if reached >= watermark or source in mine.gaps:
                continue
            if source in mine.watermarks or mine.offset < theirs.offset:
                text = f"{source} is applied up to position {reached}, by the active version up to {watermark}"
                found.append(Obstacle(Kind.BEHIND, *where, text, source, reached, watermark))
            elif (*where, source) not in known:
                text = (
                    f"nothing of {source} is in the log any more, of which the active version has applied all up to "
                    f"position {watermark}: have its relay run, which sends it again, or go on without"
                )
                found.append(Obstacle(Kind.INCOMPLETE, *where, text, source, 0, watermark))
    for letter in other.letters:
        text = f"{letter.id} is set aside: retry or discard it"
        found.append(
            Obstacle(Kind.LETTER, letter.partition.topic, letter.partition.number, text, letter.source, final=True)
        )
    return found


def _of_gap(where: Where, gap: Gap) -> Obstacle:
    through = missing_through(gap)
    if gap.state is GapState.LOST:
        text = (
            f"positions {gap.watermark + 1} to {through} of {gap.source} are gone from log and outbox: put the log's "
            "beginning back, or go on without"
        )
    else:
        text = (
            f"positions {gap.watermark + 1} to {through} of {gap.source} are not in the log, and asked for again: "
            "its relay sends them when it runs; or go on without"
        )
    final = gap.state is GapState.LOST
    return Obstacle(Kind.INCOMPLETE, *where, text, gap.source, gap.watermark, through, final)


def missing_through(gap: Gap) -> int:
    """The last position that is not to be had, as far as the gap tells."""
    if gap.state is GapState.LOST:
        return gap.lost_through
    return gap.held_previous if gap.held_offset and gap.held_previous > gap.watermark else gap.needed


def without(checkpoint: Checkpoint, source: str, through: int) -> Checkpoint:
    """The checkpoint of a version that goes on without the positions of `source` up to `through`."""
    gap = checkpoint.gaps.get(source)
    gaps = {name: each for name, each in checkpoint.gaps.items() if name != source}
    if gap is not None and gap.needed > through:
        # What was held back behind the hole is read again, from the log or by another answer of the source.
        gaps[source] = Gap(source, through, gap.needed, gap.since, GapState.OPEN, 0, gap.held_offset, gap.held_previous)
    return msgspec.structs.replace(
        checkpoint,
        gaps=gaps,
        watermarks={**checkpoint.watermarks, source: max(through, checkpoint.watermarks.get(source, 0))},
        ids={name: each for name, each in checkpoint.ids.items() if name != source},
    )
