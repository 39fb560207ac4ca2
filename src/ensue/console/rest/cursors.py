"""Where a page of a list begins: behind the last one of the page before, which need not be there any more."""

from __future__ import annotations

import math
from typing import Any

from ensue.console.rest.finding import no_cursor
from ensue.message import Partition

_INT_MAX = 2**63


def cursor_of(at: float, name: str, *more: str) -> str:
    """at: by what the list is ordered first; name: by what those of one moment are.

    >>> cursor_of(1.5, "payments/0:7")
    '1.5~payments/0:7'
    """
    return "~".join((repr(at), *more, name))


def read_cursor(cursor: str) -> tuple[float, str]:
    """Raises Problem 422."""
    at, tilde, name = cursor.partition("~")
    try:
        moment = float(at)
    except ValueError:
        no_cursor(cursor)
    if not tilde or not math.isfinite(moment) or "\0" in name or not _is_text(name):
        no_cursor(cursor)
    return moment, name


def read_numbered(cursor: str) -> tuple[float, int, str]:
    """Of what has a number between moment and name. Raises Problem 422."""
    moment, rest = read_cursor(cursor)
    number, _, name = rest.partition("~")
    try:
        found = int(number)
    except ValueError:
        no_cursor(cursor)
    if abs(found) >= _INT_MAX:
        no_cursor(cursor)
    return moment, found, name


def read_letter(cursor: str, subscription: str) -> tuple[float, Partition, int]:
    """Of a list of letters. Raises Problem 422."""
    moment, name = read_cursor(cursor)
    place, _, number = name.rpartition(":")
    topic, _, partition = place.rpartition("/")
    try:
        found = Partition(subscription, topic, int(partition)), int(number)
    except ValueError:
        no_cursor(cursor)
    if max(abs(found[0].number), abs(found[1])) >= _INT_MAX:
        no_cursor(cursor)
    return moment, *found


def _is_text(name: Any) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
