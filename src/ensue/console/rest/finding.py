"""Where an operation's UsageError is about what a request names, or brings, and not about how things stand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ensue.addresses import masked
from ensue.console.services import NotFound, NotOpened
from ensue.engine.decisions import Decided
from ensue.errors import UsageError
from ensue.integrations import problems
from ensue.integrations.problems import Problem

#: Of the details of a problem: an error of an operation says what to do in its last words.
DETAIL_CHARS_MAX = 2_000


def invalid(text: str) -> Problem:
    """What was sent is wrong: 422, and nothing was done."""
    return Problem(422, "Invalid request", masked(text)[:DETAIL_CHARS_MAX], type=problems.VALIDATION)


@contextmanager
def looking_up() -> Iterator[None]:
    """In it a UsageError means that what was asked for is not there: 404."""
    try:
        yield
    except (NotFound, NotOpened):
        raise
    except UsageError as error:
        raise NotFound(str(error)) from error


@contextmanager
def reading() -> Iterator[None]:
    """In it a UsageError is about what was sent: 422. What is said of a letter's state stays."""
    try:
        yield
    except (Decided, NotFound, NotOpened):
        raise
    except UsageError as error:
        raise invalid(str(error)) from error


def no_cursor(after: str) -> NoReturn:
    raise invalid(f"after={after[:100]!r} is no cursor: give `next` of the page before as it came")
