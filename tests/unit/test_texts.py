"""What comes from outside can neither forge a line of a log nor steer a terminal."""

from __future__ import annotations

import io
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import asyncmy.errors
import asyncpg
import psycopg
import pytest
from bson.errors import InvalidDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, StatementError

import ensue
from ensue.texts import Lines, logger, plain, said_by

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


def test_no_traceback_in_the_log_has_the_values_of_a_statement(log: tuple[logging.Logger, io.StringIO]) -> None:
    engine = create_engine("sqlite://")
    try:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT * FROM nowhere WHERE secret = :secret"), {"secret": "hunter2"})
        except DBAPIError as error:
            raise RuntimeError("no answer") from error
    except RuntimeError as error:
        log[0].exception("unexpected: %s, %s", error, error.__cause__)
    assert log[1].getvalue().count("SELECT * FROM nowhere WHERE secret = ?") == 2
    assert "RuntimeError: no answer" in log[1].getvalue()
    assert "hunter2" not in log[1].getvalue().replace('{"secret": "hunter2"}', "")  # the line of this test


class DriverError(sqlite3.IntegrityError): ...


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidTextRepresentationError("ungültige Eingabesyntax für Typ integer: »hunter2«"),
        psycopg.errors.InvalidTextRepresentation("syntaxe en entrée invalide pour le type integer : « hunter2 »"),
        asyncmy.errors.IntegrityError(1062, "Doppelter Eintrag 'hunter2' für Schlüssel 'customers.email'"),
        asyncmy.errors.DataError(1366, "Falscher integer-Wert: 'hunter2' für Feld 'x'"),
        asyncmy.errors.DataError(1690, "BIGINT value is out of range in '(9223372036854775807 + `hunter2`)'"),
    ],
)
def test_values_that_a_database_quotes_in_another_language_are_left_out(error: Exception) -> None:
    wrapped = StatementError(f"({type(error).__name__}) {error}", "INSERT INTO customers VALUES (?)", (), error)
    for each in (error, wrapped):
        assert "hunter2" not in said_by(each)
        assert "..." in said_by(each)
        assert "hunter2" in said_by(each, values=True)


@pytest.mark.parametrize(
    "error",
    [
        BulkWriteError({"writeErrors": [{"code": 121, "errmsg": "it failed validation", "op": {"email": "hunter2"}}]}),
        OperationFailure("it failed validation", 121, {"errInfo": {"consideredValue": "hunter2"}}),
        DuplicateKeyError('it failed: dup key: { email: "hunter2" }', 11000, {"keyValue": {"email": "hunter2"}}),
        InvalidDocument("it failed: cannot encode object: hunter2, of type: <class 'object'>"),
    ],
)
def test_documents_that_mongodb_shows_are_left_out(error: Exception) -> None:
    assert "it failed" in said_by(error)
    assert "hunter2" not in said_by(error)
    assert "hunter2" in said_by(error, values=True)


@pytest.mark.parametrize(
    "said",
    [
        "(pymysql.err.IntegrityError) (1062, \"Duplicate entry 'hunter2' for key 'customers.email'\")",
        "(psycopg.errors.UniqueViolation) duplicate key value violates it\nDETAIL:  Key (email)=(hunter2).",
        '(asyncpg.InvalidTextRepresentation) invalid input syntax for type integer: "hunter2"',
        "(asyncpg.DataError) invalid input for query argument $1: 'hunter2' (an integer is required)",
        "(pymysql.err.DataError) (1366, \"Incorrect integer value: 'hunter2' for column 'x' at row 1\")",
    ],
)
def test_values_that_a_database_quotes_are_left_out(said: str) -> None:
    error = StatementError(said, "INSERT INTO customers VALUES (?)", ("hunter2",), Exception())
    assert "hunter2" not in said_by(error)
    assert said_by(error).startswith(said.partition(" ")[0])
    assert "INSERT INTO customers" in said_by(error)
    assert "hunter2" in said_by(error, values=True)
    assert "hunter2" not in said_by(DriverError(said))
