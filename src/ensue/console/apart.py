"""A stream whose source lives in a task of its own: it closes what it has opened when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

#: How often it is asked whether a stream's client may go on reading it, seconds.
ASKED_S: Final = 1.0

#: The event loop itself keeps tasks by weak references alone.
_tasks: set[asyncio.Task[Any]] = set()


async def apart(
    source: Callable[[], AsyncGenerator[bytes, None]], why_not: Callable[[], Awaitable[str]] | None = None
) -> AsyncGenerator[bytes, None]:
    """Hand on what a generator yields, and what it raises. As without this, it goes on when the next part is asked for:
    what it does then is not done for a client that is gone. why_not: is asked each second, also while nothing comes;
    what it says ends the stream, and what has come meanwhile is not handed on.

    Starlette ends an answer whose client is gone by a scope of anyio's, in which every further await is cancelled as
    well: a database that is opened in there could not be closed. The task is cancelled once, as asyncio does it.
    """
    queue: asyncio.Queue[bytes] = asyncio.Queue(1)
    wanted = asyncio.Semaphore(0)

    async def read() -> None:
        async with aclosing(source()) as found:
            async for each in found:
                await queue.put(each)
                await wanted.acquire()

    reading = asyncio.create_task(read(), name="ensue console stream")
    _tasks.add(reading)
    reading.add_done_callback(_tasks.discard)
    getting = asyncio.create_task(queue.get())
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    try:
        while True:
            timeout = None if why_not is None else max(asked_at + ASKED_S - loop.time(), 0)
            await asyncio.wait({reading, getting}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if why_not is not None and loop.time() >= asked_at + ASKED_S:
                if await why_not():
                    return
                asked_at = loop.time()
                continue
            if not getting.done() and queue.empty():
                reading.result()
                return
            yield await getting
            wanted.release()
            getting = asyncio.create_task(queue.get())
    finally:
        getting.cancel()
        reading.cancel()


class Following(StreamingResponse):
    """An answer whose first part is known, since what was refused had to be refused before its status; the rest follows
    from `apart`. However it ends, also before it has begun, the rest is ended too."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], **options: Any) -> None:
        self._rest = rest
        super().__init__(_joined(first, rest), **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()


async def _joined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for each in rest:
        yield each
