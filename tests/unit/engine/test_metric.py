"""What a process measures of itself takes no more room the longer it lives."""

from __future__ import annotations

from typing import Any

from ensue.engine.metric import ERROR_TYPES_MAX, PROCESS_DURATION, STEP_ROLLBACKS, Measured


def made_at_run_time(number: int) -> Any:
    return type(f"Made{number}", (Exception,), {})()


def test_types_of_errors_that_are_made_at_run_time_do_not_make_a_series_each() -> None:
    measured = Measured()
    for number in range(3 * ERROR_TYPES_MAX):
        measured.processed("t", 0.1, made_at_run_time(number))
        measured.rolled_back(made_at_run_time(number))
    measured.rolled_back(None)
    measured.processed("t", 0.1)
    measured.rolled_back(made_at_run_time(0))  # one of the first stays itself
    rollbacks = {labels[0]: count for labels, count in measured.counts[STEP_ROLLBACKS].items()}
    assert rollbacks.pop("Refused") == 1
    assert rollbacks.pop("_OTHER") == 2 * ERROR_TYPES_MAX
    assert rollbacks.pop("Made0") == 2
    assert len(rollbacks) == ERROR_TYPES_MAX - 1
    assert len(measured.histograms[PROCESS_DURATION]) == ERROR_TYPES_MAX + 2  # and those without an error


def test_the_name_of_a_type_of_error_is_cut() -> None:
    measured = Measured()
    measured.rolled_back(type("Long" * 100, (Exception,), {})())
    assert list(measured.counts[STEP_ROLLBACKS]) == [("Long" * 25,)]
