"""What bytes from outside say, for who shows them."""

from __future__ import annotations

from typing import Any

import msgspec


def read_json(data: bytes) -> Any:
    """What JSON says, else what the bytes look like."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return repr(data)
