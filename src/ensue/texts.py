"""Texts from outside, in a log or on a terminal: nothing in them begins a line of its own or steers who shows it.

Paths, keys, headers, sources, types and the texts of errors may hold whatever a stranger has sent: line breaks that
forge a line of a log, escapes that clear a terminal, marks that turn the direction of what follows. And errors that
print the values which they are about, of a statement or a model, say what and where instead.
"""

from __future__ import annotations

import datetime
import logging
import re
import traceback
from typing import Any

#: Where the messages of databases quote a value.
_VALUE = re.compile(r"""(entry )'.*'(?= for )|(value: )'.*'(?= for )|(\$\d+: ).*|(: )".*"$""")

#: The same in any language: from the first quotation mark to the last one.
_QUOTED = re.compile("[\"'«»„“”].*[\"'«»“”]")
#: MariaDB's numbers of those that quote a value; PostgreSQL's are those of class 22.
_ABOUT_A_VALUE = frozenset({1062, 1292, 1366, 1411, 1525, 1586, 1690})
#: What MongoDB's errors show of a document, and its driver's of a value.
_DOCUMENT = re.compile(r"\{.*\}|(?<=encode object: ).*(?=, of type)", re.DOTALL)

_OF_DRIVERS = frozenset({"DatabaseError", "MySQLError", "PostgresError"})
_OF_MONGODB = frozenset({"PyMongoError", "BSONError"})


class Lines(str):
    """An argument of a log line that may have several lines: ours, or the source lines of a user's code."""

    __slots__ = ()


def plain(text: str) -> str:
    r"""Return the text with line breaks, control characters and invisible marks as escapes.

    >>> print(plain("a\nb\x1b[2J\u2028\u202e ü"))
    a\nb\x1b[2J\u2028\u202e ü
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def said_by(value: object, *, values: bool = False) -> str:
    """What str() says; an error of the user's that cannot say anything is shown as such.

    Of errors of databases and of pydantic without the values that they are about, unless `values`.
    """
    try:
        if not values and isinstance(value, Exception):
            if hasattr(value, "hide_parameters"):  # SQLAlchemy's
                return f"{_without_values(value.args[0], getattr(value, 'orig', None))} [{_statement(value)}]"
            kinds = {each.__name__ for each in type(value).__mro__}
            if not _OF_DRIVERS.isdisjoint(kinds):
                return _without_values(value, value)
            if not _OF_MONGODB.isdisjoint(kinds):
                return _without_documents(value)
            if callable(getattr(value, "errors", None)) and type(value).__name__.endswith("ValidationError"):
                return "; ".join(_fields(value))
        return str(value)
    except Exception as broken:
        return f"<its text cannot be had: {type(broken).__qualname__}>"


def _without_values(said: object, error: Any) -> str:
    """error: the driver's, which has the code."""
    first = str(said).partition("\n")[0]  # PostgreSQL's next lines quote the row
    shown = _VALUE.sub(lambda found: f"{found[found.lastindex or 0]}...", first)
    if shown == first and _is_about_a_value(error):  # in another language
        return _QUOTED.sub("...", first)
    return shown


def _is_about_a_value(error: Any) -> bool:
    number = error.args[0] if getattr(error, "args", ()) else None
    return str(getattr(error, "sqlstate", "") or "").startswith("22") or (
        isinstance(number, int) and number in _ABOUT_A_VALUE
    )


def _without_documents(error: Any) -> str:
    several = (getattr(error, "details", None) or {}).get("writeErrors") or ()
    said = [f"code {each.get('code')}: {each.get('errmsg')}" for each in several]
    return _DOCUMENT.sub("...", ", ".join(said) or str(error).partition(", full error: ")[0])


def _statement(error: Any) -> str:
    return f"SQL: {error.statement}" if error.statement else "no statement"


def _fields(error: Any) -> list[str]:
    """Of pydantic's error, where and why. What a validator of the user's says, or one of tags, quotes the value too."""
    fields = []
    for each in error.errors():
        quotes = not {"error", "tag"}.isdisjoint(each.get("ctx", ()))
        fields.append(f"{'.'.join(map(str, each['loc']))}: {each['type'] if quotes else each['msg']}")
    return fields


def logger(name: str) -> logging.Logger:
    """The logger of that name, whose records are plain text. Every log line of Ensue goes through one of these."""
    log = logging.getLogger(name)
    log.addFilter(_make_plain)
    return log


def _make_plain(record: logging.LogRecord) -> bool:
    record.msg = plain(said_by(record.msg))
    if isinstance(record.args, tuple):
        record.args = tuple(map(_plain_argument, record.args))
    elif record.args:
        record.args = {name: _plain_argument(each) for name, each in record.args.items()}
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        # Its message may have lines that look like anything: each is set in, so that none looks like a line of the log.
        record.exc_text = "\n".join(f"  {plain(line)}" for line in _traced(record.exc_info[1], set()))
    return True


def _traced(error: BaseException, seen: set[int]) -> list[str]:
    """As Python prints it, with the texts as `said_by` has them."""
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [] if before is None or id(before) in seen else [*_traced(before, seen), "and then"]
    calls = "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    said = f"{type(error).__qualname__}: {said_by(error)}"
    return [*lines, "Traceback (most recent call last):", *calls.split("\n"), *said.split("\n")]


def _plain_argument(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Lines):
        return "\n".join(map(plain, value.split("\n")))
    return plain(said_by(value))


def when(seconds: float) -> str:
    """UTC of seconds since the epoch, as the log of a server has it; 0: none.

    >>> when(1000.4)
    '1970-01-01 00:16:40 UTC'
    """
    if not seconds:
        return "-"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
