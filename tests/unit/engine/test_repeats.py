"""What a source sends again, whoever asks and however: little of it twice, and never too little to heal."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from ensue.engine.repeats import Repeats

HEAD = 2_000


def ask(lately: Repeats, after: int, now: float, head: int = HEAD) -> int:
    """Ask as a subscriber does; return how many records are sent for it."""
    through = lately.allowed(after, now)
    if through is None:
        return 0
    end = through or head
    lately.sent(after, end, now, now)
    return end - after


@given(st.lists(st.integers(0, HEAD - 1), min_size=1, max_size=200))
def test_within_a_pause_no_order_of_requests_makes_more_than_two_outboxes(asked: list[int]) -> None:
    lately = Repeats(1.0, 60.0)
    assert sum(ask(lately, after, 0.5) for after in asked) <= 2 * HEAD
    if 0 in asked:
        assert lately.after == 0


def test_requests_for_ever_are_answered_once_a_minute() -> None:
    for wanted in (lambda at: 0, lambda at: at % 2, lambda at: HEAD - 1 - at % HEAD, lambda at: at % HEAD):
        lately = Repeats(1.0, 60.0)
        sent = sum(ask(lately, wanted(at), at / 10) for at in range(36_000))
        assert sent <= 2 * HEAD * 70, "an hour of ten requests a second"


def test_a_long_answer_is_given_again_after_as_long_at_the_soonest() -> None:
    lately = Repeats(1.0, 60.0)
    lately.sent(0, HEAD, 0.0, 300.0)
    assert lately.allowed(0, 599.0) is None
    assert lately.allowed(0, 601.0) == 0


@given(st.lists(st.integers(0, HEAD - 1), max_size=50), st.integers(0, HEAD - 1))
def test_whoever_is_behind_all_others_is_answered_at_once(asked: list[int], mine: int) -> None:
    lately = Repeats(1.0, 60.0)
    for after in asked:
        ask(lately, after, 0.5)
    if mine < min(asked, default=HEAD):
        assert ask(lately, mine, 0.5)
    assert ask(lately, HEAD, 0.5, head=HEAD + 5) == 5, "and so is what follows"


def test_after_a_quiet_time_the_pause_is_short_again() -> None:
    lately = Repeats(1.0, 60.0)
    now = 0.0
    for _ in range(8):
        while not ask(lately, 0, now):
            now += 0.5
    assert not ask(lately, 0, now + 59.0)
    now += 200.0
    assert ask(lately, 0, now)
    assert ask(lately, 0, now + 1.0)
