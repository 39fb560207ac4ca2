"""Texts from outside, in a log or on a terminal: nothing in them begins a line of its own or steers who shows it.

Paths, keys, headers, sources, types and the texts of errors may hold whatever a stranger has sent: line breaks that
forge a line of a log, escapes that clear a terminal, marks that turn the direction of what follows. And errors that
print the values which they are about, of a statement or a model, say what and where instead.
"""

from __future__ import annotations

import logging
import re
import traceback
from typing import Any

#: Where the messages of databases quote a value.
_VALUE = re.compile(r"""(entry )'.*'(?= for )|(value: )'.*'(?= for )|(\$\d+: ).*|(: )".*"$""")

_OF_DRIVERS = frozenset({"DatabaseError", "MySQLError", "PostgresError"})


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

    Of SQLAlchemy's and pydantic's errors without the values that they are about, unless `values`.
    """
    try:
        if not values and isinstance(value, Exception):
            if hasattr(value, "hide_parameters"):  # SQLAlchemy's
                return f"{_without_values(value.args[0])} [{_statement(value)}]"
            if not _OF_DRIVERS.isdisjoint(each.__name__ for each in type(value).__mro__):
                return _without_values(value)
            if callable(getattr(value, "errors", None)) and type(value).__name__.endswith("ValidationError"):
                return "; ".join(_fields(value))
        return str(value)
    except Exception as broken:
        return f"<its text cannot be had: {type(broken).__qualname__}>"


def _without_values(said: object) -> str:
    first = str(said).partition("\n")[0]  # PostgreSQL's next lines quote the row
    return _VALUE.sub(lambda found: f"{found[found.lastindex or 0]}...", first)


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
