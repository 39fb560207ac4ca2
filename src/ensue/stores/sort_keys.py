"""Places in a lookup as bytes: they sort as the values do, column by column. For stores that have no SQL.

Order: nothing, numbers, text (by code point), bytes; in columns of decimal numbers these, by their value. Each value
ends where it says, so no place is the beginning of another one and a prefix of columns is a prefix of bytes. Source of
the idea: the tuple layer of FoundationDB.
"""

from __future__ import annotations

import decimal
import math
import struct
from collections.abc import Sequence
from typing import Any

from ensue.errors import UsageError
from ensue.ports import Table

_NOTHING, _NUMBER, _TEXT, _BYTES, _DECIMAL = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"
_END = b"\x00\x00"
_SIGN = 1 << 63


def sort_key(values: Sequence[Any]) -> bytes:
    """Return the place of these values. Raises UsageError for a value that has none."""
    return b"".join(map(_one, values))


def place(table: Table, names: Sequence[str], values: Sequence[Any]) -> bytes:
    """Return the place of values of these columns (the first of them, where there are fewer values). Raises UsageError
    for a value that has none."""
    if not table.placed:
        return sort_key(values)
    pairs = zip(names, values, strict=False)
    return b"".join(
        _exact(value) if name in table.placed and isinstance(value, str) else _one(value) for name, value in pairs
    )


def _exact(text: str) -> bytes:
    """A decimal number: its sign, how many digits stand before the point, its digits."""
    try:
        number = decimal.Decimal(text)
    except decimal.InvalidOperation:
        raise _no_place(text, "a decimal number") from None
    if not number.is_finite():
        raise _no_place(text, "a finite number")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    shown = bytes(digits).lstrip(b"\x00")
    if not shown:
        return _DECIMAL + b"\x02"
    body = struct.pack(">Q", len(shown) + exponent + _SIGN)
    # Nothing is lower than the end and no digit is it: 1.2 comes before 1.25.
    body += bytes(digit + 1 for digit in shown.rstrip(b"\x00")) + b"\x00"
    return _DECIMAL + (b"\x01" + bytes(255 - each for each in body) if sign else b"\x03" + body)


def _one(value: Any) -> bytes:
    if value is None:
        return _NOTHING
    if isinstance(value, str):
        return _TEXT + _ended(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes):
        return _BYTES + _ended(value)
    if isinstance(value, int) and -_SIGN <= value < _SIGN:
        nearest = float(value)
        # A float holds 53 bits; what it leaves of a longer number fits into 16 more.
        return _NUMBER + _float(nearest) + struct.pack(">H", value - int(nearest) + 0x8000)
    if isinstance(value, float) and not math.isnan(value):
        return _NUMBER + _float(value) + struct.pack(">H", 0x8000)
    raise _no_place(value, "text, bytes, a float or a whole number of 64 bits")


def _no_place(value: Any, expected: str) -> UsageError:
    return UsageError(f"{value!r} has no place in a lookup: expected {expected}", value=value)


def _ended(raw: bytes) -> bytes:
    return raw.replace(b"\x00", b"\x00\xff") + _END


def _float(value: float) -> bytes:
    [bits] = struct.unpack(">Q", struct.pack(">d", value + 0.0))  # + 0.0: minus zero is zero
    return struct.pack(">Q", bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits & _SIGN else _SIGN))
