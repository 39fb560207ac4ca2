"""A service on an event loop of its own, in a thread: for steps of code that is not async. It serves steps only."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable

from ensue.engine.runtime import Runtime
from ensue.texts import logger

log = logger("ensue.runtime")

#: To a task that is cancelled, for its end.
_GIVE_UP_S = 2.0


class Aside:
    """Started when it is first asked for, in each process anew; ends with the process, or when it is closed. For any
    thread. make_runtime: called on that event loop."""

    def __init__(self, service: str, make_runtime: Callable[[], Runtime]) -> None:
        self._service = service
        self._make_runtime = make_runtime
        self._forget()
        _asides.add(self)

    def _forget(self) -> None:
        """Also in a forked process, which has neither the thread nor a right to the connections."""
        self._lock = threading.Lock()
        self._running: tuple[Runtime, asyncio.AbstractEventLoop, threading.Thread] | None = None

    def runtime(self) -> tuple[Runtime, asyncio.AbstractEventLoop]:
        """Return it, and the event loop to which it belongs. Raises what its start raises."""
        with self._lock:
            if self._running is None:
                self._running = self._start()
            runtime, loop, _ = self._running
            return runtime, loop

    def _start(self) -> tuple[Runtime, asyncio.AbstractEventLoop, threading.Thread]:
        loop = asyncio.new_event_loop()
        # A daemon: a program that never closes it ends all the same, see `_at_exit`.
        thread = threading.Thread(target=_run, args=(loop,), name=f"ensue {self._service} steps", daemon=True)
        thread.start()

        async def start() -> Runtime:
            runtime = self._make_runtime()
            await runtime.start(work=False)
            return runtime

        try:
            return asyncio.run_coroutine_threadsafe(start(), loop).result(), loop, thread
        except BaseException:
            _end(loop, thread)
            raise

    def close(self, *, exiting: bool = False) -> None:
        """Wait for the steps that are open, then let go of everything. Safe to repeat.

        exiting: roll back what is open after config.stop_limit_s, since a thread that the process leaves behind may
        never end its step.
        """
        # Whoever starts it holds the lock, perhaps for as long as a database does not answer.
        if not self._lock.acquire(timeout=_GIVE_UP_S if exiting else -1):
            log.error("%s: the process ends while the first sync_step opens its connections", self._service)
            return
        running, self._running = self._running, None
        self._lock.release()
        if running is None:
            return
        runtime, loop, thread = running
        limit_s = runtime.context.config.stop_limit_s if exiting else None
        try:
            asyncio.run_coroutine_threadsafe(self._stop(runtime, limit_s), loop).result()
        finally:
            _end(loop, thread)

    async def _stop(self, runtime: Runtime, limit_s: float | None) -> None:
        stopping = asyncio.create_task(runtime.stop())
        await asyncio.wait((stopping,), timeout=limit_s)
        if not stopping.done():
            log.warning(
                "%s: the process ends while a thread is inside of a sync_step, after %s s: the step is rolled back",
                self._service,
                limit_s,
            )
            await _cancel_others(stopping)
            await asyncio.wait((stopping,), timeout=_GIVE_UP_S)
        if stopping.done():
            stopping.result()
        else:
            log.error("%s: its connections are not closed, they end with the process", self._service)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        # A thread may have asked for a step after the runtime had stopped: it is told so, else it waits for ever.
        loop.run_until_complete(_cancel_others())
    finally:
        loop.close()


async def _cancel_others(*spared: asyncio.Task[None]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task(), *spared}
    for each in others:
        each.cancel()
    if others:
        await asyncio.wait(others, timeout=_GIVE_UP_S)


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


_asides: weakref.WeakSet[Aside] = weakref.WeakSet()


def _at_exit() -> None:
    for each in list(_asides):
        try:
            each.close(exiting=True)
        except Exception:  # the others are to be closed all the same
            log.exception("%s: not closed at the end of the process", each._service)


def _after_fork() -> None:
    for each in list(_asides):
        each._forget()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
