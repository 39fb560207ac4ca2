"""What is one group of failures, from what letters say; and in which waves a group is tried again."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.conformance.store_suite import letter
from ensue.engine.failed import StepFailed
from ensue.engine.letter import Reason
from ensue.errors import UsageError
from ensue.message import DeadLetter, DeadLetterState
from ensue.operations.brake import WAVES, judged, waves
from ensue.operations.groups import Grouping, cause_of, found_group, place_of, said_of
from ensue.operations.letters import line_of

RATES: dict[str, int] = {}


def raises(of: str) -> int:
    return RATES[of]


def failed(function: object, of: str, *, handler: str = "book", at: float = 1.0) -> DeadLetter:
    """A letter as the engine makes it of an error that a handler raised."""
    try:
        function(of)  # type: ignore[operator]
    except Exception as error:
        reason = Reason.of(StepFailed(0, error, handler), values=False)
        return msgspec.structs.replace(letter(), error_type=type(error).__qualname__, error=reason.text, parked_at=at)
    raise AssertionError("it did not fail")


def cause(of: DeadLetter) -> object:
    return cause_of(of.error_type, of.error)


def test_what_the_engine_says_of_an_error_is_understood() -> None:
    found = failed(raises, "bob")
    handler, error_type, _ = cause_of(found.error_type, found.error)
    assert (handler, error_type) == ("book", "KeyError")
    assert said_of(found.error) == "'bob'"
    assert place_of(found.error).startswith("test_groups.py:")
    assert place_of(found.error).endswith(" in failed")  # the first line of the user's code that was called


def test_values_do_not_part_a_group_and_handler_type_and_place_do() -> None:
    assert cause(failed(raises, "bob")) == cause(failed(raises, "eve"))
    assert cause(failed(raises, "bob")) != cause(failed(raises, "bob", handler="bill"))
    assert cause(failed(raises, "bob")) != cause(failed(int, "bob"))


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("line 17, in book\n    rate[x]", "line 99, in book\n    rate[x]", True),  # a deploy has moved it
        ("line 17, in book\n    rate[x]", "line 17, in book\n    rate[y]", False),
        ("line 17, in book\n    rate[x]", "line 17, in bill\n    rate[x]", False),
        ("line 17, in book", "line 18, in book", False),  # without its source
    ],
)
def test_the_line_says_where_it_is_and_not_its_number(before: str, after: str, same: bool) -> None:
    one, other = (cause_of("KeyError", f'handler book: x\n  File "/a/shop.py", {each}') for each in (before, after))
    assert (one.name == other.name) is same
    assert one == cause_of("KeyError", f'handler book: x\n  File "/elsewhere/shop.py", {before}')


def test_an_error_without_a_handler_or_a_line_is_a_group_too() -> None:
    assert cause_of("BadMessage", "the data does not fit") == ("", "BadMessage", "")
    assert place_of("the data does not fit") == ""


def test_groups_are_counted_the_largest_first() -> None:
    grouping = Grouping()
    for number, each in enumerate([*[failed(raises, "bob")] * 3, failed(int, "x"), failed(raises, "eve", at=9.0)]):
        state = DeadLetterState.RETRYING if number == 1 else DeadLetterState.DEAD
        grouping.add(line_of(msgspec.structs.replace(each, state=state, number=number + 1)))
    first, second = grouping.groups
    assert (first.error_type, first.dead, first.retrying) == ("KeyError", 3, 1)
    assert (first.first_at, first.last_at, first.error) == (1.0, 9.0, "'eve'")
    assert first.last.endswith(":5")
    assert (second.error_type, second.dead) == ("ValueError", 1)
    assert found_group(first.name, grouping.groups) is first
    with pytest.raises(UsageError, match=f"no group nothing of dead letters.*{first.name}, {second.name}"):
        found_group("nothing", grouping.groups)


@given(st.integers(min_value=1, max_value=1200))
def test_every_letter_is_in_one_wave_and_the_first_waves_are_small(count: int) -> None:
    ids = [f"payments/0:{number}" for number in range(count)]
    found = waves(ids)
    assert [each for wave in found for each in wave] == ids
    assert [len(wave) for wave in found[:-1]] == list(WAVES[: len(found) - 1])


@pytest.mark.parametrize("state", DeadLetterState)
def test_a_letter_that_was_released_is_settled_only_when_nothing_comes_of_it_any_more(state: DeadLetterState) -> None:
    seen = judged(["here", "gone"], {"here": state, "another": DeadLetterState.DEAD})
    assert "gone" in seen.settled
    expected = {"dead": "failed", "retrying": "failed", "waiting": "pending", "released": "pending"}
    assert "here" in getattr(seen, expected.get(state.value, "settled"))
    assert len(seen.settled | seen.failed | seen.pending) == 2
