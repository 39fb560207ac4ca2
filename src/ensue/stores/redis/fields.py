"""Fields of a hash, few or many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from ensue.stores.redis.packing import words
from ensue.stores.redis.scripts import FIELDS
from ensue.stores.redis.server import Server

#: Up to so many answers the plain command costs less than a script.
_FEW = 8
_sizes = msgspec.msgpack.Decoder(list[int]).decode


async def fields_of(server: Server, key: bytes, fields: Sequence[bytes]) -> Sequence[bytes | None]:
    """Return the values of these fields, None for one that is not there."""
    if len(fields) <= _FEW:
        found: Sequence[bytes | None] = await server.command("HMGET", key, *fields)
        return found
    packed, values = await server.script(FIELDS, [key], [words(fields)])
    sizes = _sizes(packed)
    ends = accumulate([max(size, 0) for size in sizes])
    return [None if size < 0 else values[end - size : end] for size, end in zip(sizes, ends, strict=True)]
