"""Is a service there again? One task asks for all who wait, so that a restarted service is not met by a storm."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

PROBE_S = 0.03


class Reachable:
    """Of the service at `url`."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self._probe: asyncio.Task[None] | None = None

    async def wait(self, limit_s: float) -> None:
        """Return when it accepts connections, or after `limit_s`."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._until_connected())
        await asyncio.wait({self._probe}, timeout=max(0.0, limit_s))

    def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()

    async def _until_connected(self) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                await asyncio.sleep(PROBE_S)
            else:
                writer.close()
                return
