"""How the fields of a dataclass become what a row holds (text, numbers, bytes) and back, by type and column."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import uuid
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ensue.errors import UsageError
from ensue.kinds import Change, class_of, fitting, same

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine


@dataclasses.dataclass(frozen=True, slots=True)
class Conversion:
    """Turns a field's value into what a row holds and back; None stays None."""

    to_row: Change
    from_row: Change


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field with its column. kind: its class, None where only the column's own type knows. conversion None: a row
    holds its values as they are. placed: see `Table.placed`. sorted: its column sorts as its values do."""

    where: str
    kind: type | None
    conversion: Conversion | None
    placed: bool
    sorted: bool

    def value(self, value: Any) -> Any:
        """A value as the column holds it. Raises UsageError for one of another type that stands for none of its own."""
        value = self.own(value)
        return value if self.conversion is None or value is None else self.conversion.to_row(value)

    def own(self, value: Any) -> Any:
        """A value as one of the field's own type."""
        return fitting(value, self.kind, self.where)


def field_of(where: str, hint: Any, column_type: TypeEngine[Any]) -> Field:
    """where: `<class>.<field>`. Raises UsageError for what nobody knows how to store."""
    from sqlalchemy.types import TypeDecorator

    below: Any = column_type
    if isinstance(column_type, TypeDecorator):
        below = column_type.load_dialect_impl(_plain_dialect())
        conversion: Conversion | None = _of_sqlalchemy(column_type, _left(below, where))
        kind, held = None, python_type(below)
    else:
        kind = held = class_of(hint)
        conversion = _conversion(where, hint, kind, column_type)
    number = held is not None and issubclass(held, decimal.Decimal)
    by_number = number and _holds_numbers(below)
    placed = by_number or (held is not None and issubclass(held, bytes))
    return Field(where, kind, conversion, placed, by_number or not number)


def _conversion(where: str, hint: Any, kind: type | None, column_type: Any) -> Conversion | None:
    from sqlalchemy import DateTime, Enum, Integer

    if kind is not None:
        if issubclass(kind, enum.Enum):
            return (
                _of_sqlalchemy(column_type) if isinstance(column_type, Enum) else Conversion(attrgetter("value"), kind)
            )
        if issubclass(kind, datetime.datetime):
            return _moments(column_type, where) if isinstance(column_type, DateTime) else _MOMENTS_AS_TEXT
        for base, conversion in _CONVERSIONS.items():
            if issubclass(kind, base):
                return conversion
        if kind is int and isinstance(column_type, Integer):
            return None
        if issubclass(kind, int | float) and _holds_numbers(column_type):
            return Conversion(same, lambda value: value if type(value) is kind else kind(_decimal(value)))
        if issubclass(kind, int | float | str | bytes):
            return None
    raise UsageError(
        f"TableRepository does not know how to store {where}: {hint!r}; give its column a type that does: "
        "class X(sqlalchemy.types.TypeDecorator), whose impl is String, BigInteger or the like"
    )


def _decimal(value: Any) -> decimal.Decimal:
    return decimal.Decimal(value if isinstance(value, str | int) else str(value))  # SQLite makes floats of numbers


_CONVERSIONS: dict[type, Conversion] = {
    uuid.UUID: Conversion(attrgetter("hex"), uuid.UUID),  # as SQLAlchemy's Uuid on a database without the type
    decimal.Decimal: Conversion(str, _decimal),
    datetime.date: Conversion(datetime.date.isoformat, datetime.date.fromisoformat),
    bool: Conversion(int, bool),
}


def _in_utc(moment: datetime.datetime) -> datetime.datetime:
    """Moments of all zones in one, so that their texts sort as they do."""
    return moment if moment.tzinfo is None else moment.astimezone(datetime.UTC)


_MOMENTS_AS_TEXT = Conversion(lambda moment: _in_utc(moment).isoformat(), datetime.datetime.fromisoformat)


def _moments(column_type: Any, where: str) -> Conversion:
    """As SQLAlchemy's DateTime writes it in SQLite, so that rows of both sort together."""
    aware = bool(column_type.timezone)

    def to_row(moment: datetime.datetime) -> str:
        if (moment.tzinfo is not None) is not aware:
            wanted = "with a time zone, e.g. datetime.now(UTC)" if aware else "without a time zone"
            raise UsageError(
                f"{where} is {moment!r}, expected one {wanted}: its column is DateTime(timezone={aware}), and moments "
                f"with and without a zone have no order. Give it such a moment, or write DateTime(timezone={not aware})"
            )
        return _in_utc(moment).isoformat(" ", "microseconds")

    def from_row(text: str) -> datetime.datetime:
        moment = datetime.datetime.fromisoformat(text)
        # MariaDB knows no zones, psycopg returns the session's.
        return moment.replace(tzinfo=datetime.UTC) if aware and moment.tzinfo is None else _in_utc(moment)

    return Conversion(to_row, from_row)


def _left(below: Any, where: str) -> Conversion | None:
    """Of what a type of SQLAlchemy's hands to a driver, where that is not plain yet."""
    kind = python_type(below)
    if kind is datetime.datetime:
        return _moments(below, where)
    return _CONVERSIONS[kind] if kind in (decimal.Decimal, datetime.date) else None


def _of_sqlalchemy(column_type: Any, rest: Conversion | None = None) -> Conversion:
    """As the type itself converts, and then `rest`."""
    bind = column_type.bind_processor(_plain_dialect()) or same
    result = column_type.result_processor(_plain_dialect(), None) or same
    if rest is None:
        return Conversion(bind, result)
    return Conversion(lambda value: rest.to_row(bind(value)), lambda value: result(rest.from_row(value)))


@functools.cache
def _plain_dialect() -> Any:
    """Of a database that has texts, numbers and bytes alone; an exact number stays one."""
    from sqlalchemy.engine.default import DefaultDialect

    dialect = DefaultDialect()
    dialect.supports_native_decimal = True
    return dialect


def _holds_numbers(column_type: Any) -> bool:
    from sqlalchemy import Float, Integer, Numeric

    return isinstance(column_type, Numeric | Float | Integer)


def python_type(column_type: Any) -> type | None:
    try:
        found: type = column_type.python_type
    except NotImplementedError:  # a type of the user's own says nothing
        return None
    return found
