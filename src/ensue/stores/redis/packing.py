"""Lists of words for a script, as MessagePack. By hand: the server's decoder knows strings, not the newer binaries."""

from __future__ import annotations

import struct
from collections.abc import Sequence

#: What a short word begins with, by its size.
_SHORT = [bytes((0xA0 | size,)) for size in range(32)]
_array = struct.Struct(">BI").pack
_string16 = struct.Struct(">BH").pack
_string32 = struct.Struct(">BI").pack


def lists(parts: Sequence[bytes]) -> bytes:
    """Return a list of what is packed already."""
    return _array(0xDD, len(parts)) + b"".join(parts)


def word(raw: bytes) -> bytes:
    size = len(raw)
    if size < 32:
        return _SHORT[size] + raw
    return (_string16(0xDA, size) if size < 0x10000 else _string32(0xDB, size)) + raw


def words(raws: Sequence[bytes]) -> bytes:
    """Return a list of words as the server's `cmsgpack.unpack` reads it."""
    packed = [_SHORT[len(raw)] + raw if len(raw) < 32 else word(raw) for raw in raws]
    return _array(0xDD, len(raws)) + b"".join(packed)
