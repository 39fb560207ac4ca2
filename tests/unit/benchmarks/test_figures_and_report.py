"""The small parts that every benchmark trusts: goals, rounds, and what is written into a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.figures import Figure, Goal, Report, at_least, at_most, number
from benchmarks.latency import percentile
from benchmarks.report import as_markdown, write_into
from benchmarks.rounds import Rounds, Sample, alternate


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [(at_least(0.5), 0.5, True), (at_least(0.5), 0.49, False), (at_most(20), 20, True), (at_most(20), 20.1, False)],
)
def test_a_goal_is_met_at_its_very_value_and_missed_beyond(goal: Goal, value: float, met: bool) -> None:
    assert Figure(name="x", value=value, unit="", goal=goal).met is met


def test_a_figure_without_a_goal_is_neither_met_nor_missed() -> None:
    assert Figure(name="x", value=1.0, unit="").met is None


def test_sides_are_measured_to_and_fro_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def side(name: str) -> Sample:
        calls.append(name)
        return Sample(events=len(calls), wall_s=1.0, cpu_s=0.0)

    measured = alternate({"a": lambda: side("a"), "b": lambda: side("b")}, 3)
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    figure = measured.rate("a", "a")
    assert (figure.low, figure.value, figure.high) == (3.0, 6.0, 7.0)


def test_the_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    """Not the ratio of the medians: a round in which the whole machine was slow says as much as any other."""
    slow = [Sample(100, seconds, 0.0) for seconds in (2.0, 20.0, 4.0)]
    fast = [Sample(100, seconds, 0.0) for seconds in (1.0, 10.0, 1.0)]
    assert Rounds({"slow": slow, "fast": fast}).ratio("slow", "fast", "ratio").value == 0.5


def test_cpu_time_over_another_side_is_told_in_microseconds_an_event() -> None:
    one = [Sample(1_000, 1.0, 0.030)]
    other = [Sample(1_000, 1.0, 0.010)]
    assert Rounds({"one": one, "other": other}).cpu_over("one", "other", "more").value == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.4821, "0.482"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")]
)
def test_numbers_are_shown_with_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [float(each) for each in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100), percentile([7.0], 1)) == (
        50.0,
        99.0,
        100.0,
        7.0,
    )


def test_only_what_stands_between_the_marks_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- measured: a -->\nold\n<!-- end -->\nbetween\n<!-- measured: b -->\nkept\n<!-- end -->\n"
    )
    assert write_into(page, {"a": "new \\1", "c": "nowhere"}) == ["c"]
    assert page.read_text() == (
        "before\n<!-- measured: a -->\n\nnew \\1\n\n<!-- end -->\nbetween\n<!-- measured: b -->\nkept\n<!-- end -->\n"
    )


def test_a_missed_goal_is_to_be_seen_in_the_table() -> None:
    missed = Figure(name="ratio", value=0.4, unit="", goal=at_least(0.5), low=0.3, high=0.45)
    report = Report(name="x", question="Q?", scale="S.", bad="b.", bound="c.", figures=(missed,))
    assert report.missed == (missed,)
    assert "| ratio | 0.4 |  | 0.3 to 0.45 | ≥ 0.5 | NO |" in as_markdown(report)
