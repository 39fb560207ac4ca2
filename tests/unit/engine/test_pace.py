"""The relay's pace: at once as long as it is quiet, evenly when it is not."""

from __future__ import annotations

from ensue.engine.pace import AT_ONCE, PER_S, Pace


def test_a_burst_after_a_quiet_time_is_not_held_up() -> None:
    pace = Pace(100.0)
    assert [pace.turn(100.0) for _ in range(int(AT_ONCE))] == [0.0] * int(AT_ONCE)
    assert pace.turn(100.0) > 0


def test_a_steady_load_below_the_pace_is_never_held_up() -> None:
    pace = Pace(0.0)
    assert not any(pace.turn(number / (PER_S * 0.9)) for number in range(1000))


def test_under_load_turns_come_at_the_pace() -> None:
    pace, now, turns = Pace(0.0), 0.0, 0
    while now < 10.0:
        now += pace.turn(now) + 0.001  # a turn takes a moment
        turns += 1
    assert PER_S * 10 <= turns <= PER_S * 10 + AT_ONCE + 1
