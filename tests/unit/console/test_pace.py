"""How fast a version of a view is read, from page to page."""

from __future__ import annotations

from ensue.console.pace import Going, Pace


def test_the_rate_is_that_between_two_pages_and_none_is_made_up() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    assert pace.look("totals", 2, 0, 1000) is None
    assert pace.look("totals", 2, 50, 1000) is None  # at the same moment
    now[0] += 2.0
    assert pace.look("totals", 2, 200, 1000) == Going(100.0, 8.0)
    assert pace.look("totals", 3, 200, 1000) is None  # another version
    now[0] += 2.0
    assert pace.look("totals", 2, 0, 1000) is None  # it was built anew
    now[0] += 1000.0
    assert pace.look("totals", 2, 500, 1000) is None  # nobody has looked for long


def test_what_stands_still_has_no_time_left() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    pace.look("totals", 2, 10, 20)
    now[0] += 10.0
    assert pace.look("totals", 2, 10, 20) == Going(0.0, None)
