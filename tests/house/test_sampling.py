"""A sample leaves out no test, and in three days no variant."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sampling import DAYS, SAMPLED, TESTS, chosen

pytest_plugins = ["pytester"]


@given(st.text(), st.integers(1, 100), st.integers(0, 100_000))
def test_every_variant_runs_within_three_days_and_some_every_day(name: str, count: int, day: int) -> None:
    days = [list(chosen(name, count, day + later)) for later in range(DAYS)]
    assert all(days)
    assert {number for each in days for number in each} == set(range(count))
    assert max(map(len, days)) <= count // min(DAYS, count) + 1


def test_what_is_sampled_is_there() -> None:
    assert [each for each in SAMPLED if not (TESTS / each).exists()] == []


def test_a_run_says_how_to_run_the_same_variants_again(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import tests.sampling\nfrom tests.sampling import *\n"
        "tests.sampling.TESTS = __import__('pathlib').Path(__file__).parent\n"
    )
    pytester.mkdir("faults")
    pytester.makepyfile(
        **{
            "faults/test_some": """
                import pytest

                @pytest.mark.parametrize("n", range(9))
                def test_varied(n): pass

                def test_plain(): pass

                class Suite:
                    def test_inherited(self): pass

                class TestOne(Suite): pass

                class TestTwo(Suite):
                    def test_own(self): pass
                """,
            "test_pure": """
                import pytest

                @pytest.mark.parametrize("n", range(9))
                def test_pure(n): pass
                """,
        }
    )
    assert pytester.runpytest("-p", "no:cacheprovider").parseoutcomes() == {"passed": 22}
    sampled = pytester.runpytest("-p", "no:cacheprovider", "--sample-day", "20785", "--sample", "faults")
    sampled.stdout.fnmatch_lines(["sample: *--sample-day 20785"])
    assert sampled.parseoutcomes() == {"passed": 3 + 1 + 2, "deselected": 7}  # and the path is a path
    todays = pytester.runpytest("-p", "no:cacheprovider", "--sample", "faults")
    todays.stdout.fnmatch_lines([f"sample: *--sample-day {int(time.time() // 86_400)}"])
    assert todays.parseoutcomes() == {"passed": 3 + 1 + 2, "deselected": 7}
