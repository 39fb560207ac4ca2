"""Places in a lookup as bytes: they sort as the values do, column by column. For stores that have no SQL.

Order: nothing, numbers, text (by code point), bytes. Each value ends where it says, so no place is the beginning of
another one and a prefix of columns is a prefix of bytes. Source of the idea: the tuple layer of FoundationDB.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from ensue.errors import UsageError

_NOTHING, _NUMBER, _TEXT, _BYTES = b"\x01", b"\x02", b"\x03", b"\x04"
_END = b"\x00\x00"
_SIGN = 1 << 63


def sort_key(values: Sequence[Any]) -> bytes:
    """Return the place of these values. Raises UsageError for a value that has none."""
    return b"".join(map(_one, values))


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
    raise UsageError(
        f"{value!r} has no place in a lookup: expected text, bytes, a float or a whole number of 64 bits",
        value=value,
    )


def _ended(raw: bytes) -> bytes:
    return raw.replace(b"\x00", b"\x00\xff") + _END


def _float(value: float) -> bytes:
    [bits] = struct.unpack(">Q", struct.pack(">d", value + 0.0))  # + 0.0: minus zero is zero
    return struct.pack(">Q", bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits & _SIGN else _SIGN))
