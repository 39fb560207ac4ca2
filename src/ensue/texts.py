"""Texts from outside, in a log or on a terminal: nothing in them begins a line of its own or steers who shows it.

Paths, keys, headers, sources, types and the texts of errors may hold whatever a stranger has sent: line breaks that
forge a line of a log, escapes that clear a terminal, marks that turn the direction of what follows.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any


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


def said_by(value: object) -> str:
    """What str() says; an error of the user's that cannot say anything is shown as such."""
    try:
        return str(value)
    except Exception as broken:
        return f"<its text cannot be had: {type(broken).__qualname__}>"


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
        lines = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n").split("\n")
        record.exc_text = "\n".join(f"  {plain(line)}" for line in lines)
    return True


def _plain_argument(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Lines):
        return "\n".join(map(plain, value.split("\n")))
    return plain(said_by(value))
