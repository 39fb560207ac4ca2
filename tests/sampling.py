"""A third of the variants of each test, another third each day: `--sample`, for a run that has to end in time.

A variant is one set of parameters of a test function, or a class that inherits it: a store, a driver, a place to be
killed at. Every function runs, and after three days every variant has. The day is printed; `--sample-day DAY` runs
the same variants again, and without either option all run. Only where variants take servers or processes: those of pure
rules cost nothing.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

#: After so many days every variant has run.
DAYS = 3
_DAY_S = 86_400
#: Where variants take servers or processes, seen from the directory of the tests.
SAMPLED = (
    "deploy", "everyday", "faults", "sagas", "sessions", "shop", "tokens", "unit/benchmarks", "unit/brokers",
    "unit/cli", "unit/engine", "unit/integrations", "unit/stores", "unit/test_tls.py", "views",
)  # fmt: skip
TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    # A flag and a value are two options: one whose value may be left out would take the path that follows it.
    parser.addoption(
        "--sample", action="store_const", const=int(time.time() // _DAY_S), dest="sample_day",
        help="run a third of the variants of tests with servers or processes: those of today",
    )  # fmt: skip
    parser.addoption(
        "--sample-day", type=int, metavar="DAY", dest="sample_day",
        help="the same, of another day, counted since 1970: that of an earlier run, which printed it",
    )  # fmt: skip


def sample_day(config: pytest.Config) -> int | None:
    """The day whose variants run; None: all of them do."""
    day: int | None = config.getoption("sample_day")
    return day


def pytest_report_header(config: pytest.Config) -> str | None:
    day = sample_day(config)
    if day is None:
        return None
    return (
        f"sample: a third of the variants of tests with servers or processes; the same ones again: --sample-day {day}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    day = sample_day(config)
    if day is None:
        return
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if _sampled(item.path) and isinstance(item, pytest.Function):
            # Classes that inherit a test, of the suites that hold for every store, are its variants.
            name = f"{item.path.relative_to(TESTS).as_posix()} {item.function.__module__} {item.function.__qualname__}"
            groups.setdefault(name, []).append(item)
    left_out: set[pytest.Item] = set()
    for name, group in groups.items():
        kept = set(chosen(name, len(group), day))
        left_out.update(item for number, item in enumerate(group) if number not in kept)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def chosen(name: str, count: int, day: int) -> Iterable[int]:
    """Return which of `count` variants of a test run on a day: at least one, and over DAYS days all of them.

    name: of the test. Tests with the same parameters do not all run with the same ones on the same day.
    """
    days = min(DAYS, count)
    return range((day + zlib.crc32(name.encode())) % days, count, days)


def _sampled(path: Path) -> bool:
    if not path.is_relative_to(TESTS):
        return False
    place = path.relative_to(TESTS).as_posix()
    return any(place == each or place.startswith(f"{each}/") for each in SAMPLED)
