"""When a recurring step is due: also on the days on which clocks are changed, and after nobody was there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue import UsageError
from ensue.schedule import Missed, Schedule, schedule_of

BERLIN = "Europe/Berlin"
SPRING, AUTUMN = datetime(2026, 3, 28, 12), datetime(2026, 10, 24, 12)  # the day before, at noon


def due_times(schedule: Schedule, begin: datetime, count: int) -> list[str]:
    """So many in a row, each asked for at the time of the one before; as the clock on the wall says it."""
    zone = ZoneInfo(schedule.tz)
    moment, found = begin.replace(tzinfo=zone).timestamp(), []
    for _ in range(count):
        moment = schedule.first(moment)
        found.append(datetime.fromtimestamp(moment, zone).strftime("%d %H:%M%z"))
    return found


def test_a_cron_expression_goes_by_the_clock_of_its_zone() -> None:
    assert due_times(Schedule(cron="0 3 * * *", tz=BERLIN), datetime(2026, 6, 1), 2) == [
        "01 03:00+0200",
        "02 03:00+0200",
    ]
    assert due_times(Schedule(cron="0 3 * * *"), datetime(2026, 6, 1), 1) == ["01 03:00+0000"]
    assert due_times(Schedule(cron="0 9 * * MON-FRI", tz=BERLIN), datetime(2026, 6, 5, 10), 1) == ["08 09:00+0200"]


def test_a_time_that_the_change_of_clocks_leaves_out_comes_right_after_it() -> None:
    assert due_times(Schedule(cron="30 2 * * *", tz=BERLIN), SPRING, 2) == ["29 03:00+0200", "30 02:30+0200"]


def test_a_time_that_comes_twice_is_due_at_the_first() -> None:
    schedule = Schedule(cron="30 2 * * *", tz=BERLIN)
    assert due_times(schedule, AUTUMN, 2) == ["25 02:30+0200", "26 02:30+0100"]
    in_the_second_hour = datetime(2026, 10, 25, 1, 10, tzinfo=UTC).timestamp()
    assert schedule.first(in_the_second_hour) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(("begin", "hours"), [(SPRING, 23), (AUTUMN, 25)])
def test_what_is_due_each_hour_is_due_in_each_hour_that_there_is(begin: datetime, hours: int) -> None:
    found = due_times(Schedule(cron="0 * * * *", tz=BERLIN), begin.replace(hour=23), 26)
    day = f"{begin.day + 1} "
    assert len([each for each in found if each.startswith(day)]) == hours


@settings(max_examples=200, deadline=None)
@given(
    cron=st.sampled_from(["30 2 * * *", "*/7 1-3 * * *", "0 */2 * * *", "59 2,3 * * SUN", "* * * * *", "0 3 29 2 *"]),
    minutes=st.integers(0, 3 * 366 * 24 * 60),
)
def test_due_times_only_go_on_and_none_is_left_out_however_often_one_asks(cron: str, minutes: int) -> None:
    schedule = Schedule(cron=cron, tz=BERLIN)
    begin = datetime(2026, 1, 1, tzinfo=UTC).timestamp() + minutes * 60
    due = schedule.first(begin)
    assert due > begin
    assert schedule.first((begin + due) / 2) == due, "asked later, it is the same"


@pytest.mark.parametrize(
    ("missed", "following"), [("once", "04 03:00+0000"), ("skip", "04 03:00+0000"), ("all", "02 03:00+0000")]
)
def test_what_comes_after_a_run_that_was_two_days_late(missed: Missed, following: str) -> None:
    schedule = Schedule(cron="0 3 * * *", missed=missed)
    due, now = (datetime(2026, 6, day, hour, tzinfo=UTC).timestamp() for day, hour in ((1, 3), (3, 10)))
    found = datetime.fromtimestamp(schedule.following(due, now), UTC)
    assert found.strftime("%d %H:%M%z") == following
    assert schedule.passes_over(due, now) == (missed == "skip")
    assert not schedule.passes_over(due, due + 3600), "late, but its successor is not due yet"


def test_an_interval_keeps_its_beat() -> None:
    schedule = Schedule(every_s=300.0)
    assert schedule.following(due=1000.0, now=1000.2) == 1300.0
    assert schedule.following(due=1000.0, now=2234.0) == 2500.0
    assert schedule.following(due=1000.0, now=999.9) == 1300.0, "begun by a clock that was a little behind"


@pytest.mark.parametrize(
    ("schedule", "tz", "missed", "says"),
    [
        ("0 25 * * *", None, "once", "no cron expression .*hour"),
        ("0 3 * *", None, "once", "no cron expression .*five fields"),
        ("@daily", None, "once", "no cron expression"),
        ("0 0 30 2 *", None, "once", "no cron expression"),
        ("0 3 * * *", "Europe/Nowhere", "once", "no time zone"),
        ("0 3 * * *", "../etc/passwd", "once", "no time zone"),
        ("0 3 * * *", "", "once", "no time zone"),
        ("0 3 * * *", None, "twice", 'expected "once", "skip" or "all"'),
        (timedelta(0), None, "once", "at least 1 ms"),
        (timedelta(minutes=5), BERLIN, "once", "leave tz out"),
        (300, None, "once", "a cron expression .* or a timedelta"),
        ("* * */20 * 1L", None, "once", "not due again within 50 years"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule: object, tz: str | None, missed: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        schedule_of(schedule, tz, missed, "@shop.every", datetime(2020, 1, 1, tzinfo=UTC).timestamp())
