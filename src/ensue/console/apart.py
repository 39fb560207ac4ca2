"""A stream whose source lives in a task of its own: it closes what it has opened when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

#: The event loop itself keeps tasks by weak references alone.
_tasks: set[asyncio.Task[Any]] = set()


async def apart(source: Callable[[], AsyncGenerator[bytes, None]]) -> AsyncGenerator[bytes, None]:
    """Hand on what a generator yields, and what it raises.

    Starlette ends an answer whose client is gone by a scope of anyio's, in which every further await is cancelled as
    well: a database that is opened in there could not be closed. The task is cancelled once, as asyncio does it.
    """
    queue: asyncio.Queue[bytes] = asyncio.Queue(1)

    async def read() -> None:
        async with aclosing(source()) as found:
            async for each in found:
                await queue.put(each)

    reading = asyncio.create_task(read(), name="ensue console stream")
    _tasks.add(reading)
    reading.add_done_callback(_tasks.discard)
    getting = asyncio.create_task(queue.get())
    try:
        while True:
            await asyncio.wait({reading, getting}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done() and queue.empty():
                reading.result()
                return
            yield await getting
            getting = asyncio.create_task(queue.get())
    finally:
        getting.cancel()
        reading.cancel()
