"""What type a declaration means, and which values of one type stand for a value of another, both ways."""

from __future__ import annotations

import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from ensue.errors import UsageError

T = TypeVar("T")
Change = Callable[[Any], Any]


def class_of(hint: Any) -> type | None:
    """The class of a type hint, without `| None`, NewType, Annotated and names for types; None when it is no class."""
    while True:
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        named = [option for option in options if option is not types.NoneType]
        if len(named) != 1 or named[0] is Any:  # which is a class to Python
            return None
        hint = named[0]
        if isinstance(hint, type) and typing.get_origin(hint) is None:
            return hint
        if typing.get_origin(hint) is typing.Annotated:
            below = typing.get_args(hint)[0]
        else:  # of a NewType; of a `type` statement
            below = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)
        if below is None:
            return None
        hint = below


def same(value: Any) -> Any:
    return value


def change_of(have: type | None, want: type | None) -> Change | None:
    """Return what makes the one value of `want` of a value of `have`: `same` itself where nothing is to be done, None
    where that is not certain. The change raises ValueError for a value that has none.

    UUIDs and their text, and members of an enum and their values, are each other's. A number and its text are not:
    "042" would be 42, and nobody knows which of the two another service writes.
    """
    if have is None or want is None or have is want:
        return same
    if issubclass(have, enum.Enum):
        return attrgetter("value") if _holds(have, want) else None
    if issubclass(want, enum.Enum):
        return want if _holds(want, have) else None
    if issubclass(have, str) and issubclass(want, uuid.UUID):
        return uuid.UUID
    if issubclass(have, uuid.UUID) and issubclass(want, str):
        return str
    if bool in (have, want) or _is_moment(have) is not _is_moment(want):
        return None
    return same if issubclass(have, want) or issubclass(want, have) else None


def _holds(members: type[enum.Enum], kind: type) -> bool:
    return all(type(each.value) is kind for each in members)


def _is_moment(kind: type) -> bool:
    return issubclass(kind, datetime.datetime)  # which is a date to Python, but never equals one


def fitting(value: Any, want: type | None, what: str) -> Any:
    """The value as one of `want`. Raises UsageError that names `what` it is for where there is none."""
    if value is None or want is None or type(value) is want:
        return value
    if type(value) is int and want in (decimal.Decimal, float):
        return want(value)
    change = change_of(type(value), want)
    try:
        if change is not None:
            return change(value)
    except ValueError as error:
        raise UsageError(f"{what} is {value!r}, which is no {want.__name__}: {error}") from error
    raise UsageError(f"{what} is {value!r}, a {type(value).__name__}; expected a {want.__name__}")


def as_asked(ids: Sequence[Any], found: dict[Any, T], table: str, id_name: str) -> dict[Any, T]:
    """What was found, by id. Raises UsageError when the database takes an id for another one."""
    if not found.keys() <= set(ids):
        other = next(each for each in found if each not in ids)
        raise UsageError(
            f"table {table}: a row was found whose {id_name} is {other!r}, which was not asked for in these letters: "
            "its column takes different texts for one. Give it a collation that compares byte by byte and does not pad "
            "(MariaDB: utf8mb4_nopad_bin), and a type that does not (VARCHAR)",
            table=table,
        )
    return found
