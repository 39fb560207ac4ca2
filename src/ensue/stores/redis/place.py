"""A version's place on a Redis server: the keys of its own prefix, `{ensue:history@2}:`, in the database of the URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensue.stores.places import place_name, store_name
from ensue.stores.redis.keys import Keys
from ensue.stores.redis.server import Server

#: Keys that are looked for, and removed, at once.
_AT_ONCE = 1000


class OwnPlace:
    """See `ensue.ports.Place`."""

    def __init__(self, url: str, service: str, suffix: str, connect_args: Mapping[str, Any] | None = None) -> None:
        place_name(service, suffix, 255, "prefix")
        self.service = store_name(service, suffix)
        self.url = url

    async def make(self) -> None:
        """A key makes its place."""

    async def remove(self) -> None:
        server = Server(self.url)
        pattern = Keys(self.service).prefix + b"*"  # whose braces are no pattern of Redis, and which has no others
        try:
            cursor = b"0"
            while True:
                cursor, keys = await server.command("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE)
                if keys:
                    await server.command("UNLINK", *keys)
                if cursor == b"0":
                    return
        finally:
            await server.close()
