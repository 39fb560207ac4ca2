"""What a person decides on dead letters: to try them again, to give them up, to delete what was given up."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec

from ensue.deciding import Deciding
from ensue.engine.decisions import Decided, found_letter
from ensue.engine.discarding import give_up
from ensue.errors import CheckpointConflict
from ensue.message import DeadLetter, DeadLetterState
from ensue.operations.letters import LetterLine, line_of
from ensue.operations.opening import Opened, dispatcher_of
from ensue.ports import StepTransaction

#: Of the actions in decisions' rows.
RETRY, DISCARD, EDIT, PURGE = (f"dead-letters {name}" for name in ("retry", "discard", "edit", "purge"))
#: Deleted in one transaction.
_PURGED_AT_ONCE = 500

Decide = Callable[[str], Awaitable[DeadLetter]]
Wanted = Callable[[DeadLetter], bool]


class Outcome(enum.StrEnum):
    DECIDED = "decided"
    PASSED = "passed over"  # somebody else was quicker
    GARBAGE = "no message"  # it can only be discarded


class LetterDecided(msgspec.Struct, frozen=True):
    id: str
    key: str
    outcome: Outcome


async def chosen(access: Opened, ids: Sequence[str]) -> list[LetterLine]:
    """The letters of these ids, before anything is done with any. Raises UsageError when one is not there."""
    return [line_of(found_letter(each, await access.books.letter(each))) for each in ids]


async def retry(access: Opened, letter_id: str, by: Deciding) -> LetterLine:
    """Have a letter tried again, with all its attempts; what waits behind it follows in order. Returns it as it is
    then. Raises UsageError that says what was found when it cannot be."""
    return line_of(await (await decider(access, DeadLetterState.RELEASED, by))(letter_id))


async def discard(access: Opened, letter_id: str, by: Deciding) -> LetterLine:
    """Give a letter up: it stays as a record, and what waits behind it goes on. Whoever waits for the answer to a
    command gets the failure Discarded. Raises UsageError as `retry` does."""
    return line_of(await (await decider(access, DeadLetterState.DISCARDED, by))(letter_id))


async def decider(access: Opened, state: DeadLetterState, by: Deciding, group: str = "") -> Decide:
    """What puts a letter into this state (RELEASED or DISCARDED), by its id, for who does it with many. group: of
    failures, for which it is done; is written down."""
    books = access.books

    async def note(transaction: StepTransaction, letter: DeadLetter) -> None:
        after = {"state": state.value} | ({"group": group} if group else {})
        action = RETRY if state is DeadLetterState.RELEASED else DISCARD
        await books.record(transaction, by, action, letter.id, before_of(letter), after)

    if state is not DeadLetterState.DISCARDED or not access.store.capabilities.publishes:
        return lambda letter_id: books.decide(letter_id, state, note)
    dispatcher = await dispatcher_of(access)
    return lambda letter_id: give_up(books, dispatcher, letter_id, note)


async def decide_all(
    access: Opened, state: DeadLetterState, by: Deciding, group: str = "", wanted: Wanted | None = None
) -> AsyncGenerator[LetterDecided, None]:
    """Decide on every letter that is dead, one by one; others may do the same meanwhile. wanted: on these alone."""
    decide = await decider(access, state, by, group)
    async with aclosing(access.books.letters_by_time([DeadLetterState.DEAD])) as letters:
        async for each in letters:
            if wanted is not None and not wanted(each):
                continue
            outcome = Outcome.DECIDED
            if state is DeadLetterState.RELEASED and line_of(each).garbage:
                outcome = Outcome.GARBAGE
            elif not await decided(decide, each.id):
                outcome = Outcome.PASSED
            yield LetterDecided(each.id, each.key, outcome)


async def dead_ids(access: Opened, wanted: Wanted | None = None) -> frozenset[str]:
    """Ids of the letters that are dead now, for who is asked about so many and decides on these alone."""
    async with aclosing(access.books.letters_by_time([DeadLetterState.DEAD])) as letters:
        return frozenset([each.id async for each in letters if wanted is None or wanted(each)])


async def decided(decide: Decide, letter_id: str) -> bool:
    """Decide on it; False: somebody else has meanwhile, or it took effect."""
    try:
        await decide(letter_id)
    except (CheckpointConflict, Decided):
        return False
    return True


async def purge(access: Opened, older_s: float, by: Deciding) -> int:
    """Delete discarded and refused letters that were set aside longer than older_s seconds ago, for good; return how
    many. Every other letter stays: it may still take effect."""
    books = access.books

    async def note(transaction: StepTransaction, ids: Sequence[str]) -> None:
        await books.record(transaction, by, PURGE, f"{len(ids)} letters", {"ids": ids}, None)

    before_s = await access.store.now() - older_s
    deleted = 0
    while count := await books.prune_letters(before_s, _PURGED_AT_ONCE, note):
        deleted += count
    return deleted


def before_of(letter: DeadLetter) -> dict[str, object]:
    """What a decision says that the letter was."""
    return {"state": letter.state.value, "attempts": letter.attempts, "error_type": letter.error_type}
