"""What is said of an event that its subscribers would not read as it was published."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

from ensue.errors import EventMismatch
from ensue.roundtrip import Difference, fields_of
from ensue.texts import said_by

_SHOWN_CHARS = 120
#: Where msgspec says that it was: "... - at `$.lines[...].price`", "Object missing required field `total`".
_AT, _MISSING = re.compile(r"at `\$\.?([^`]*)`"), re.compile(r"missing required field `([^`]*)`")
_GENERAL = "Give its fields values of the types that it declares, and declare types that JSON can carry"


def cannot_encode(
    noun: str, kind: str, event: Any, encode_field: Callable[[Any, str], object], error: Exception
) -> EventMismatch:
    field = next((name for name in fields_of(type(event)) if _fails(encode_field, event, name)), "")
    return _mismatch(
        noun, kind, event, field, "what JSON can carry", _value(event, field), f"{said_by(error)}. {_GENERAL}"
    )


def no_reader(noun: str, kind: str, event: Any, error: Exception) -> EventMismatch:
    field = _place(error)
    found = _value(event, re.split(r"[.\[]", field)[0])
    return _mismatch(noun, kind, event, field, "what a subscriber can read", found, f"{said_by(error)}. {_GENERAL}")


def would_change(noun: str, kind: str, event: Any, found: Difference) -> EventMismatch:
    return _mismatch(
        noun, kind, event, found.field, _shown(found.sent), _shown(found.read),
        f"a subscriber would read {_shown(found.read)}, not {_shown(found.sent)}. {_advice(found)}",
    )  # fmt: skip


def _mismatch(noun: str, kind: str, event: Any, field: str, expected: str, found: str, why: str) -> EventMismatch:
    where = f", its field {field}" if field else ""
    return EventMismatch(
        f"{noun} {type(event).__qualname__} cannot be published{where}: {why}",
        type=kind,
        field=field,
        expected=expected,
        found=found,
    )


def _advice(found: Difference) -> str:
    sent, read = found.sent, found.read
    if fields_of(type(sent)) and type(sent) is not type(read):
        return (
            f"What is read is the class that the field declares: declare {type(sent).__qualname__} there, or a union "
            "that is told apart by tags"
        )
    if isinstance(sent, datetime.time) and isinstance(read, datetime.time):
        return "The zone of a time is lost where it has no fixed offset of whole minutes: publish a datetime"
    if isinstance(sent, datetime.datetime) and isinstance(read, datetime.datetime):
        return "An offset is written in whole minutes: publish value.astimezone(datetime.UTC)"
    if isinstance(sent, float) and read is None:
        return "JSON has no NaN and no infinity: publish None"
    return _GENERAL


def _place(error: Exception) -> str:
    errors = getattr(error, "errors", None)
    if errors is not None:  # pydantic's
        return ".".join(map(str, errors()[0]["loc"]))
    at = _AT.search(str(error)) or _MISSING.search(str(error))
    return "" if at is None else at[1]


def _fails(encode_field: Callable[[Any, str], object], event: Any, name: str) -> bool:
    try:
        encode_field(event, name)
    except Exception:  # which one does not matter: it is being explained that one came
        return True
    return False


def _value(event: Any, field: str) -> str:
    return _shown(getattr(event, field)) if field and hasattr(event, field) else "nothing that is declared"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # of the user's own
        text = f"a {type(value).__qualname__} whose repr raises {type(error).__name__}"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
