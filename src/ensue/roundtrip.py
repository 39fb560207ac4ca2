"""Whether what a subscriber reads is what was published; and of which events that is sure before anybody looks.

Bytes that can be read back may still mean something else: NaN becomes null, an object of a subclass loses its fields,
an offset loses its seconds. So what was read is compared with what was sent, field by field.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import keyword
import math
import types
import typing
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple, cast

#: Of these, `==` says whether a value has come back.
_PLAIN = frozenset(
    {
        str, int, bool, float, bytes, types.NoneType, uuid.UUID, decimal.Decimal, datetime.date, datetime.datetime,
        datetime.timedelta,
    }
)  # fmt: skip
_SEQUENCES = (list, tuple, deque)


class Difference(NamedTuple):
    """field: where, as `lines[2].price`; empty: the whole event."""

    field: str
    sent: Any
    read: Any


def difference(sent: Any, read: Any, field: str = "") -> Difference | None:
    """Return the first place where `read` is not what was sent, or None. read: fits the class's declaration.

    Lists and tuples are not told apart, nor are zones of one instant, nor numbers of one value: the declaration says
    which of them a subscriber gets. Raises whatever `==` of the user's own values raises.
    """
    names = fields_of(type(read))
    if names:
        if type(sent) is not type(read):
            return Difference(field, sent, read)
        get = _getter(names)
        ours, theirs = get(sent), get(read)
        inside = f"{field}." if field else ""
        if not (ours == theirs and _PLAIN.issuperset(map(type, ours))):
            for name, one, other in zip(names, ours, theirs, strict=True):
                if (found := difference(one, other, inside + name)) is not None:
                    return found
        extra = getattr(read, "__pydantic_extra__", None)  # fields that `extra="allow"` let in
        return None if extra is None else difference(sent.__pydantic_extra__, extra, field)
    if isinstance(read, Mapping):
        if not isinstance(sent, Mapping) or sent.keys() != read.keys():
            return Difference(field, sent, read)
        return _first(difference(sent[key], value, f"{field}[{key!r}]") for key, value in read.items())
    if isinstance(read, _SEQUENCES):
        if not isinstance(sent, _SEQUENCES) or len(sent) != len(read):
            return Difference(field, sent, read)
        pairs = enumerate(zip(sent, read, strict=True))
        return _first(difference(one, other, f"{field}[{at}]") for at, (one, other) in pairs)
    return None if _equal(sent, read) else Difference(field, sent, read)


def _first(found: typing.Iterable[Difference | None]) -> Difference | None:
    return next((each for each in found if each is not None), None)


def _equal(sent: Any, read: Any) -> bool:
    if isinstance(read, datetime.time) and isinstance(sent, datetime.time):
        return sent == read and (sent.tzinfo is None) == (read.tzinfo is None)
    if isinstance(read, datetime.datetime) and isinstance(sent, datetime.datetime):
        # Of two zones, `==` is false for each time that a clock shows twice.
        return sent == read or (sent.tzinfo is not None and read.tzinfo is not None and _utc(sent) == _utc(read))
    return bool(sent == read or (sent != sent and read != read))  # NaN is not itself


def _utc(moment: datetime.datetime) -> datetime.datetime:
    return moment.astimezone(datetime.UTC)


def _fields_of(cls: type) -> tuple[str, ...]:
    for known in ("__struct_fields__", "model_fields"):
        if (names := getattr(cls, known, None)) is not None:
            return tuple(names)
    found = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else getattr(cls, "__attrs_attrs__", ())
    return tuple(each.name for each in found)


#: The names of the fields of a Struct, a dataclass, a pydantic model or an attrs class; none of anything else.
fields_of = cast("Callable[[type], tuple[str, ...]]", functools.lru_cache(maxsize=4096)(_fields_of))


@functools.lru_cache(maxsize=4096)
def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda value: (get(value),)


def _whole_zone(moment: datetime.datetime) -> bool:
    return moment.tzinfo is None or moment.tzinfo is datetime.UTC


#: Classes whose values come back, by themselves or when the function says so of one. Exactly these: not subclasses.
_SURE: Mapping[type, Callable[[Any], bool] | None] = {
    str: None,
    int: None,
    bool: None,
    float: math.isfinite,
    uuid.UUID: None,
    datetime.date: None,
    datetime.datetime: _whole_zone,
    decimal.Decimal: decimal.Decimal.is_finite,
}


def surely(hints: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Return what says that an object is sure to come back as it is, by the classes of its values and a glance at them.

    It says no when it is not sure, and for every object when a field's type rules nothing out: a constraint, a union,
    a container, a class. hints: of the fields, with `Annotated`. The class itself must do nothing when it is read.
    """
    tests: list[str] = []
    given: dict[str, Any] = {}
    for at, (name, hint) in enumerate(hints.items()):
        found = _allowed(hint)
        if found is None or not name.isidentifier() or keyword.iskeyword(name):
            return never
        kind, optional = found
        given[f"kind{at}"], check = kind, _SURE.get(kind)
        test = f"type(event.{name}) is kind{at}"
        if check is not None:
            given[f"check{at}"] = check
            test += f" and check{at}(event.{name})"
        tests.append(f"(event.{name} is None or {test})" if optional else test)
    # One expression for the class, as dataclasses write their methods: it runs for each event, and a loop over the
    # fields takes five times as long. Names of fields are all that is put into it.
    return cast("Callable[[Any], bool]", eval(f"lambda event: {' and '.join(tests) or True}", given))


def never(event: Any) -> bool:
    """Nothing is sure of any object of this class."""
    return False


def _allowed(hint: Any) -> tuple[type, bool] | None:
    """The class that a field's value must have for its return to be sure, and whether it may be None; or nothing."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    named = [each for each in options if each is not types.NoneType]
    if len(named) != 1 or not (named[0] in _SURE or _is_plain_enum(named[0])):
        return None
    return named[0], len(named) < len(options)


def _is_plain_enum(kind: Any) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)) or issubclass(kind, enum.Flag):
        return False
    return {type(member.value) for member in kind} in ({str}, {int})
