"""What comes from outside can neither forge a line of a log nor steer a terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import ensue
from ensue.texts import Lines, logger, plain

FORGED = "x\n2026-01-01 00:00:00 CRITICAL root: forged\r\x1b[2J\x9b2J\x7f\u2028\u2029\u202e\u2066\ufeff\x00\ud800"
ESCAPED = r"x\n2026-01-01 00:00:00 CRITICAL root: forged\r\x1b[2J\x9b2J\x7f\u2028\u2029\u202e\u2066\ufeff\x00\ud800"


class Broken(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log = logger("ensue.test_texts")
    log.addHandler(handler)
    yield log, written
    log.removeHandler(handler)


def test_text_that_can_be_seen_stays_as_it_is() -> None:
    assert plain("Grüße, 漢字 🙂 {}[]\\") == "Grüße, 漢字 🙂 {}[]\\"


def test_a_log_line_is_one_line_whatever_its_arguments_hold(log: tuple[logging.Logger, io.StringIO]) -> None:
    log[0].warning("%s at %d, %.1f s: %s", FORGED, 7, 1.25, ValueError(FORGED))
    log[0].warning("%(key)s", {"key": FORGED})
    log[0].warning(FORGED.replace("%", "%%"))
    assert log[1].getvalue() == f"WARNING {ESCAPED} at 7, 1.2 s: {ESCAPED}\n" + f"WARNING {ESCAPED}\n" * 2


def test_an_error_that_cannot_say_anything_does_not_hinder_the_log(log: tuple[logging.Logger, io.StringIO]) -> None:
    log[0].warning("failed: %s", Broken())
    assert log[1].getvalue() == "WARNING failed: <its text cannot be had: ZeroDivisionError>\n"


def test_lines_of_ours_stay_lines_and_hold_nothing_else(log: tuple[logging.Logger, io.StringIO]) -> None:
    log[0].warning("failed%s", Lines('\n  File "a.py"\x1b\n    f(\u2028)'))
    assert log[1].getvalue() == 'WARNING failed\n  File "a.py"\\x1b\n    f(\\u2028)\n'


def test_each_line_of_a_traceback_is_set_in(log: tuple[logging.Logger, io.StringIO]) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        log[0].exception("unexpected")
    first, *others = log[1].getvalue().splitlines()
    assert first == "ERROR unexpected"
    assert others[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in others)


def test_every_logger_of_ensue_is_one_of_these() -> None:
    root = Path(ensue.__file__).parent
    direct = [path.name for path in root.rglob("*.py") if "getLogger(" in path.read_text(encoding="utf-8")]
    assert direct == ["texts.py"]
