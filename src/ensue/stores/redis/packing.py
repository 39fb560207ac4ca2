"""Lists of words for a script, as MessagePack. By hand: the server's decoder knows strings, not the newer binaries."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Word = bytes | str | bool | int | float


def pack(value: Word | Sequence[object]) -> bytes:
    """Return nested lists of words as the server's `cmsgpack.unpack` reads them. Numbers go as their text."""
    parts: list[bytes] = []
    _pack(value, parts)
    return b"".join(parts)


def _pack(value: object, parts: list[bytes]) -> None:
    if isinstance(value, list | tuple):
        size = len(value)
        parts.append(struct.pack(">BH", 0xDC, size) if size < 0x10000 else struct.pack(">BI", 0xDD, size))
        for each in value:
            _pack(each, parts)
    elif value is False:
        parts.append(b"\xc2")
    else:
        raw = value if isinstance(value, bytes) else str(value).encode()
        size = len(raw)
        if size < 32:
            parts.append(bytes((0xA0 | size,)))
        elif size < 0x10000:
            parts.append(struct.pack(">BH", 0xDA, size))
        else:
            parts.append(struct.pack(">BI", 0xDB, size))
        parts.append(raw)
