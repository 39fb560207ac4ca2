"""Services in this process until somebody says stop; then an orderly end, within a bound."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import FrameType, TracebackType
from typing import Any

from ensue.announcing import announced
from ensue.app import Service
from ensue.cli.output import complain
from ensue.engine.runtime import Runtime
from ensue.errors import EnsueError, HandlerHung
from ensue.texts import logger

log = logger("ensue.run")

#: Seconds in which a stop must be done; after that the process ends by force, and its batches roll back.
STOP_S = 5.0
#: The exit status when a handler hangs: a process that is started anew goes on without its message (EX_SOFTWARE).
HUNG = 70


class Stop:
    """The wish to stop: by a signal, or because a service cannot go on. In a `with` block around `asyncio.run`.

    The first one starts a clock of STOP_S that runs in a thread, so that a handler that blocks the event loop cannot
    hold the process; a second signal ends it at once, unless `followed`: a child of Ensue's own gets each signal from
    whoever stops the parent and from the parent too, which kills it when that is wanted.
    """

    def __init__(self, *, followed: bool = False) -> None:
        self.wanted = False
        self._followed = followed
        self._code = 1
        self._tell: Callable[[], object] = lambda: None
        self._clock: threading.Timer | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._clock is not None:
            self._clock.cancel()

    def bind(self) -> asyncio.Event:
        """Return an event of the running loop that is set when a stop is wanted."""
        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tell = lambda: loop.call_soon_threadsafe(event.set)
        if self.wanted:
            event.set()
        return event

    def want(self) -> None:
        """Safe to repeat."""
        if not self.wanted:
            self.wanted = True
            self._clock = threading.Timer(STOP_S, self._by_force)
            self._clock.daemon = True
            self._clock.start()
        self._tell()

    def hung(self) -> None:
        """A handler hangs, perhaps with the event loop: as `want`, from any thread, with another exit status."""
        self._code = HUNG
        self.want()

    def _by_force(self) -> None:
        complain(f"not stopped within {STOP_S:g} s, a handler does not return: ended by force, its batch rolls back")
        os._exit(self._code)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and not self._followed:
            os._exit(128 + number)
        # No logging in here: the signal may have come while the log's lock was held.
        self.want()


async def serve(services: Sequence[Service], stop: Stop) -> int:
    """Run the services until `stop`; return the exit status. When one cannot start or go on, all stop."""
    stopping = stop.bind()
    endings = await asyncio.gather(*(_one(each, stop, stopping) for each in services), return_exceptions=True)
    code = 0
    for ending in endings:
        if isinstance(ending, EnsueError):
            complain(str(ending))
            code = max(code, HUNG if isinstance(ending, HandlerHung) else 1)
        elif ending is not None:
            raise ending
    return code


async def _one(service: Service, stop: Stop, stopping: asyncio.Event) -> None:
    """Run one service. Raises what kept it from starting, StoreRestored when its relay refused, HandlerHung."""
    try:
        async with AsyncExitStack() as stack:
            runtime = await _start(service, stopping, stack)
            if runtime is None:
                log.info("%s: stopped before it had started", service.name)
                return
            runtime.when_hung = stop.hung
            failing = asyncio.create_task(runtime.wait_failed())
            waiting = asyncio.create_task(stopping.wait())
            try:
                await asyncio.wait((failing, waiting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (failing, waiting):
                    task.cancel()
                await asyncio.gather(failing, waiting, return_exceptions=True)
            stop.want()
            failed = None if runtime.worker is None else runtime.worker.failed
        if failed is not None:
            raise failed
    finally:
        stop.want()


async def _start(service: Service, stopping: asyncio.Event, stack: AsyncExitStack) -> Runtime | None:
    """Begin to run it; None when a stop is wanted while it still waits for its database."""
    try:
        async with asyncio.timeout(None) as starting:
            watching = asyncio.create_task(_cut_short(starting, stopping))
            try:
                return await stack.enter_async_context(announced(service))
            finally:
                watching.cancel()
    except TimeoutError:
        if not starting.expired():
            raise
        return None


async def _cut_short(starting: asyncio.Timeout, stopping: asyncio.Event) -> None:
    await stopping.wait()
    starting.reschedule(0)
