"""What an operator may decide on, and what is left after it: refusals and results, as pure functions."""

from __future__ import annotations

from ensue.errors import UsageError
from ensue.message import DeadLetter, DeadLetterState, Gap, GapState, Partition

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


def accepted(partition: Partition, source: str, gap: Gap | None) -> Gap | None:
    """Return what is left of a gap whose loss is accepted, None: nothing. Raise UsageError unless it is LOST."""
    if gap is None or gap.state is not GapState.LOST:
        found = "no gap" if gap is None else f"a gap that is {gap.state}: it is asked for again and may still close"
        raise UsageError(
            f"{partition}: {source} has {found}; only a gap that is {GapState.LOST} can be accepted",
            found=found,
            source=source,
        )
    if gap.needed > gap.lost_through:
        held = (gap.held_offset, gap.held_previous)
        return Gap(source, gap.lost_through, gap.needed, gap.since, GapState.OPEN, 0, *held)
    return None
