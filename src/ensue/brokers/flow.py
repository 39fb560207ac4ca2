"""Back-pressure of a connection: asyncio says when the other side takes less than we write."""

from __future__ import annotations

import asyncio


class PacedProtocol(asyncio.Protocol):
    """A protocol whose `_writable` is set while the transport's buffer takes more; what loses it sets it too."""

    def __init__(self) -> None:
        self._writable = asyncio.Event()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
