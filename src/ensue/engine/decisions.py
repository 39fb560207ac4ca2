"""What an operator may decide on, and what is left after it: refusals and results, as pure functions."""

from __future__ import annotations

import msgspec

from ensue.errors import UsageError
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Gap, GapState, Partition

_DECIDABLE = (DeadLetterState.DEAD, DeadLetterState.RETRYING)
_DECISIONS = (DeadLetterState.RELEASED, DeadLetterState.DISCARDED)


class Decided(UsageError):
    """There is nothing to decide about the letter any more: somebody else has, or it took effect.

    attributes: id, found.
    """


def found_letter(letter_id: str, letter: DeadLetter | None) -> DeadLetter:
    """Return the letter; raise UsageError if there is none of that id."""
    if letter is None:
        raise Decided(
            f"there is no dead letter {letter_id}: it took effect, or its id is mistyped: expected "
            "<topic>/<partition>:<number>, as `ensue dead-letters list` shows it",
            id=letter_id,
        )
    return letter


def check_decision(letter_id: str, letter: DeadLetter | None, state: DeadLetterState) -> DeadLetter:
    """Return the letter if an operator may put it into `state`; raise UsageError that says what was found."""
    if state not in _DECISIONS:
        raise UsageError(f"dead letter {letter_id}: {state} is no decision, expected released or discarded")
    letter = found_letter(letter_id, letter)
    if letter.state not in _DECIDABLE:
        raise Decided(
            f"dead letter {letter_id} is {letter.state}: only one that is dead or retrying can be decided"
            + (" (decide on the first letter of its key)" if letter.state is DeadLetterState.WAITING else ""),
            id=letter_id,
            found=letter.state,
        )
    if state is DeadLetterState.RELEASED and not letter.source:
        raise UsageError(
            f"dead letter {letter_id} is no message ({letter.error}), so no handler can take it: discard it",
            id=letter_id,
        )
    return letter


def accepted(partition: Partition, source: str, gap: Gap | None, shown: Gap | None = None) -> Gap | None:
    """Return what is left of a gap whose loss is accepted, None: nothing. shown: as somebody saw it who decided; None:
    nobody was asked. Raise UsageError unless it is LOST, and just what was shown is."""
    if gap is None or gap.state is not GapState.LOST:
        found = "no gap" if gap is None else f"a gap that is {gap.state}: it is asked for again and may still close"
        raise UsageError(
            f"{partition}: {source} has {found}; only a gap that is {GapState.LOST} can be accepted",
            found=found,
            source=source,
        )
    if shown is not None and (gap.watermark, gap.lost_through) != (shown.watermark, shown.lost_through):
        raise UsageError(
            f"{partition}: of {source} positions {gap.watermark + 1} to {gap.lost_through} are lost now, and "
            f"{shown.watermark + 1} to {shown.lost_through} were when it was decided: nothing is accepted; look again",
            expected=shown,
            found=gap,
            source=source,
        )
    if gap.needed > gap.lost_through:
        held = (gap.held_offset, gap.held_previous)
        return Gap(source, gap.lost_through, gap.needed, gap.since, GapState.OPEN, 0, *held)
    return None


def rewound(partition: Partition, source: str, checkpoint: Checkpoint, position: int) -> Checkpoint:
    """Return the checkpoint in which `source` is applied up to an earlier position. Raise UsageError if it never was
    beyond that."""
    watermark = checkpoint.watermarks.get(source)
    if watermark is None or not 0 <= position < watermark:
        found = "nothing of it was applied" if watermark is None else f"it was applied up to {watermark}"
        raise UsageError(
            f"{partition}: {source} cannot be taken back to position {position}: {found}", found=found, source=source
        )
    kept = {name: left for name, left in checkpoint.ids.items() if name != source}
    gaps = {name: gap for name, gap in checkpoint.gaps.items() if name != source}
    watermarks = {**checkpoint.watermarks, source: position}
    return msgspec.structs.replace(checkpoint, watermarks=watermarks, gaps=gaps, ids=kept)


def forgotten(partition: Partition, source: str, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint without the gap in a source. Raise UsageError when it has none."""
    if source not in checkpoint.gaps:
        raise UsageError(f"{partition}: {source} has no gap; `ensue gaps list` shows what there is", source=source)
    gaps = {name: gap for name, gap in checkpoint.gaps.items() if name != source}
    return msgspec.structs.replace(checkpoint, gaps=gaps)
