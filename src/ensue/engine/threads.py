"""Threads for handlers that are a plain `def`: as many as a service has lanes, and none of anybody else's.

Python cannot stop a thread. So a handler that never returns keeps its thread, and nothing else: the pool is its
service's own, and its threads are daemons, which do not hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol


class Shows(Protocol):
    """Is told which thread a call runs in."""

    thread: int | None


_Work = Callable[[], None]


class _Crew:
    """The threads between two calls of `close`. Belongs to the event loop in which it was made."""

    def __init__(self, size: int) -> None:
        self.turns = asyncio.Semaphore(size)
        self.free: list[SimpleQueue[_Work | None]] = []
        self.closed = False

    def begin(self, name: str) -> SimpleQueue[_Work | None]:
        queue: SimpleQueue[_Work | None] = SimpleQueue()
        threading.Thread(target=self._serve, args=(queue,), name=name, daemon=True).start()
        return queue

    def _serve(self, queue: SimpleQueue[_Work | None]) -> None:
        while (work := queue.get()) is not None:
            work()
            del work  # or it would keep the last message alive
            if self.closed:
                return

    def take_back(self, queue: SimpleQueue[_Work | None]) -> None:
        if self.closed:
            queue.put(None)
        else:
            self.free.append(queue)
        self.turns.release()

    def close(self) -> None:
        self.closed = True
        while self.free:
            self.free.pop().put(None)


class HandlerThreads:
    """size: at most so many calls run at once; a further one waits until a thread is free."""

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self._name = name
        self._count = 0
        self._crew: _Crew | None = None

    async def run(self, shown: Shows, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return or raise what the call does, which sees the context variables of here. When this is cancelled the
        call goes on, and so long its thread is not free."""
        if self._crew is None:
            self._crew = _Crew(self.size)
        crew = self._crew
        await crew.turns.acquire()
        try:
            queue = crew.free.pop() if crew.free else self._begin(crew)
        except BaseException:  # there can be no more threads now
            crew.turns.release()
            raise
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def settle(result: Any, error: BaseException | None) -> None:
            crew.take_back(queue)
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def work() -> None:
            shown.thread = threading.get_ident()
            result, error = None, None
            try:
                result = context.run(call, *arguments)
            except BaseException as raised:  # whatever it is, whoever awaits it gets it
                error = raised
            if not loop.is_closed():  # else nobody is there any more
                try:
                    loop.call_soon_threadsafe(settle, result, error)
                except RuntimeError:
                    if not loop.is_closed():
                        raise

        queue.put(work)
        return await future

    def close(self) -> None:
        """Let the threads end, each as soon as its call has, and those that wait for their turn have had it.

        What is called later gets other threads: one that hangs takes none away from a service that is started again.
        """
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()

    def _begin(self, crew: _Crew) -> SimpleQueue[_Work | None]:
        self._count += 1
        return crew.begin(f"{self._name} handler {self._count}")
