"""The lifespan of an ASGI application that stands inside of another one, which is its server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message

from ensue.errors import UsageError
from ensue.texts import logger

log = logger("ensue.http")


@asynccontextmanager
async def lifespan_of(app: ASGIApp) -> AsyncIterator[MutableMapping[str, Any]]:
    """Start the application, yield what it hands to its requests as their state, and shut it down.

    One that knows no lifespan, which it says by raising at the first message or by ending, has none. Raises UsageError
    when it says that its start, or its end, has failed.
    """
    inner = _Inner(app)
    await inner.told("startup")
    try:
        yield inner.state
    finally:
        await inner.told("shutdown")


class _Inner:
    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self._task = asyncio.create_task(self._run(app, scope), name="ensue lifespan of the app within")
        self._began = False

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._asked.get, self._said.put)

    async def told(self, what: str) -> None:
        """Tell it, and return when it has done that."""
        if self._task.done():
            return  # it knew none, or has ended by itself
        await self._asked.put({"type": f"lifespan.{what}"})
        saying = asyncio.create_task(self._said.get())
        try:
            await asyncio.wait({saying, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if saying.done():
                said = saying.result()
                if said["type"] == f"lifespan.{what}.failed":
                    raise UsageError(f"the app did not manage its {what}: {said.get('message') or 'see its log'}")
                self._began = True
        finally:
            saying.cancel()
        if what == "shutdown" or self._task.done():
            await self._ended()

    async def _ended(self) -> None:
        try:
            await self._task
        except Exception as error:
            if self._began:
                raise
            # What ASGI says of an application without a lifespan: it raises, and the server goes on.
            log.debug("the app has no lifespan: %s: %s", type(error).__name__, error)
