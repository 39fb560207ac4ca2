"""What every store decides and says in the same way: refusals and an operator's decisions, as pure functions."""

from __future__ import annotations

from ensue.errors import CheckpointConflict, RetryableError, UsageError
from ensue.message import DeadLetter, DeadLetterState, Gap, GapState, Partition

_DECIDABLE = (DeadLetterState.DEAD, DeadLetterState.RETRYING)
_DECISIONS = (DeadLetterState.RELEASED, DeadLetterState.DISCARDED)


def checkpoint_moved(partition: Partition, revision: int) -> CheckpointConflict:
    return CheckpointConflict(
        f"{partition}: the stored checkpoint is not of revision {revision} any more: another worker moved it; "
        "load it again and read on from there",
        subscription=partition.subscription,
        topic=partition.topic,
        partition=partition.number,
        expected_revision=revision,
    )


def letter_gone(letter_id: int) -> CheckpointConflict:
    return CheckpointConflict(
        f"dead letter {letter_id} is not there any more: another worker put it through, or an operator discarded it; "
        "load the letters again",
        id=letter_id,
    )


def check_decision(letter_id: int, letter: DeadLetter | None, state: DeadLetterState) -> DeadLetter:
    """Return the letter if an operator may put it into `state`; raise UsageError that says what was found."""
    if state not in _DECISIONS:
        raise UsageError(f"dead letter {letter_id}: {state} is no decision, expected released or discarded")
    if letter is None:
        raise UsageError(
            f"there is no dead letter {letter_id}: it took effect, or its number is mistyped", id=letter_id
        )
    if letter.state not in _DECIDABLE:
        raise UsageError(
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


def answered_meanwhile(key: str) -> RetryableError:
    return RetryableError(
        f"Idempotency-Key {key!r} was answered meanwhile: try again, and that answer is given", key=key
    )


def cannot_commit(caught: BaseException) -> UsageError:
    """For a step that caught an error after which its transaction is no whole any more."""
    return UsageError(
        "the step cannot commit after this error, which was caught inside of it: "
        f"{str(caught) or type(caught).__name__}. Let it pass",
        caught=caught,
    )


def rows_missing(table: str, id_column: str, wanted: int, found: int) -> UsageError:
    return UsageError(
        f"table {table}: {wanted} rows to update, {found} of them are there by {id_column}: "
        "was a row deleted, or the id of a loaded entity changed?",
        table=table,
    )


def not_open() -> UsageError:
    return UsageError("this transaction is not open: it begins with `async with` and ends with its block")
