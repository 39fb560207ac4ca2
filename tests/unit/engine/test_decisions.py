"""What an operator may decide on, and what is said where it cannot be."""

from __future__ import annotations

from itertools import product

import pytest

from ensue.conformance.store_suite import PARTITION, SOURCE, letter
from ensue.engine.decisions import accepted, check_decision
from ensue.errors import UsageError
from ensue.message import DeadLetterState, Gap, GapState

DECISIONS = (DeadLetterState.RELEASED, DeadLetterState.DISCARDED)
DECIDABLE = (DeadLetterState.DEAD, DeadLetterState.RETRYING)


@pytest.mark.parametrize(("found", "decision"), list(product(DeadLetterState, DeadLetterState)))
def test_what_is_dead_or_retrying_can_be_released_or_discarded_and_nothing_else(
    found: DeadLetterState, decision: DeadLetterState
) -> None:
    given = letter(state=found)
    if decision in DECISIONS and found in DECIDABLE:
        assert check_decision(given.id, given, decision) is given
        return
    with pytest.raises(UsageError, match=decision.value if decision not in DECISIONS else found.value):
        check_decision(given.id, given, decision)


def test_one_that_waits_says_where_to_decide() -> None:
    waiting = letter(state=DeadLetterState.WAITING)
    with pytest.raises(UsageError, match="decide on the first letter of its key"):
        check_decision(waiting.id, waiting, DeadLetterState.RELEASED)


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_letter_that_is_not_there_is_named(decision: DeadLetterState) -> None:
    with pytest.raises(UsageError, match="no dead letter payments/0:7") as caught:
        check_decision("payments/0:7", None, decision)
    assert caught.value.values["id"] == "payments/0:7"


def test_what_is_no_message_is_discarded_or_nothing() -> None:
    garbage = letter()
    garbage.source = ""
    with pytest.raises(UsageError, match=r"is no message \(no such order\), so no handler can take it: discard it"):
        check_decision(garbage.id, garbage, DeadLetterState.RELEASED)
    assert check_decision(garbage.id, garbage, DeadLetterState.DISCARDED) is garbage


@pytest.mark.parametrize("gap", [None, Gap(SOURCE, 5, 9, 1.0)])
def test_only_what_is_lost_can_be_given_up(gap: Gap | None) -> None:
    with pytest.raises(UsageError, match="no gap" if gap is None else "asked for again and may still close"):
        accepted(PARTITION, SOURCE, gap)


@pytest.mark.parametrize(("needed", "left"), [(9, False), (10, True)])
def test_what_a_gap_needs_beyond_the_loss_is_left_of_it(needed: int, left: bool) -> None:
    lost = Gap(SOURCE, 5, needed, 1.5, GapState.LOST, 9, held_offset=20, held_previous=9)
    expected = Gap(SOURCE, 9, needed, 1.5, held_offset=20, held_previous=9)
    assert accepted(PARTITION, SOURCE, lost) == (expected if left else None)


@pytest.mark.parametrize("shown", [(5, 8), (5, 10), (4, 9), (6, 9)])
def test_what_is_lost_by_now_besides_what_was_shown_is_not_given_up(shown: tuple[int, int]) -> None:
    lost = Gap(SOURCE, 5, 9, 1.5, GapState.LOST, 9)
    seen = Gap(SOURCE, shown[0], 9, 1.5, GapState.LOST, shown[1])
    with pytest.raises(UsageError, match=r"positions 6 to 9 are lost now, and .* nothing is accepted"):
        accepted(PARTITION, SOURCE, lost, seen)
    assert accepted(PARTITION, SOURCE, lost, Gap(SOURCE, 5, 20, 2.0, GapState.LOST, 9)) is None
