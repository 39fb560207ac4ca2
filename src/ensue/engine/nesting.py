"""No step inside a handler or another step of the same service: it could not be a part of it, and would commit alone.

Nor a step of another service inside a handler: it would commit again at each attempt of the handler. Any task may have
been begun inside of a step or a handler and outlive it, so it may wait for its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ensue.errors import UsageError

#: A task that was begun inside a step may well wait for its end; or the step waits for the task, and nobody goes on.
WAIT_S = 10.0


class _Open:
    """A step, or handlers at work, in `task`, or in a thread without an event loop. outer: inside of which it began."""

    __slots__ = ("_ended", "handler", "open", "outer", "service", "task")

    def __init__(self, service: str, outer: _Open | None, *, handler: bool) -> None:
        self.service = service
        self.outer = outer
        self.handler = handler
        self.task = _this_task()
        self.open = True
        self._ended: asyncio.Event | None = None

    @property
    def what(self) -> str:
        return f"{'a handler' if self.handler else 'another step'} of {self.service}"

    def end(self) -> None:
        self.open = False
        if self._ended is not None:
            self._ended.set()

    async def ended(self) -> None:
        if self._ended is None:
            self._ended = asyncio.Event()
        await self._ended.wait()


_innermost: ContextVar[_Open | None] = ContextVar("ensue_step", default=None)


@contextmanager
def handling(service: str) -> Iterator[None]:
    """Handlers of this service run inside this block."""
    yield from _within(service, handler=True)


@contextmanager
def stepping(service: str) -> Iterator[None]:
    """A step of this service is open inside this block, which may be left in another task than it was entered."""
    yield from _within(service, handler=False)


def _this_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop in this thread
        return None


def _within(service: str, *, handler: bool) -> Iterator[None]:
    mine = _Open(service, _outer(), handler=handler)
    _innermost.set(mine)
    try:
        yield
    finally:
        mine.end()
        if _innermost.get() is mine:
            _innermost.set(mine.outer)


def _outer() -> _Open | None:
    """The innermost that has not ended."""
    outer = _innermost.get()
    while outer is not None and not outer.open:
        outer = outer.outer
    return outer


async def check_step(service: str, *, requested: bool, called: str = "") -> None:
    """Raise UsageError when a step of `service` must not begin here; wait until it may, if that can be.

    requested: it is a request's, which may come from a handler of the same process as it may from anywhere.
    called: the command that the step is for, whose answer is waited for.
    """
    outer = _outer()
    while outer is not None:
        if outer.open and outer.service == service:
            if outer.task is asyncio.current_task():
                raise _refusal(service, outer, called)
            try:
                async with asyncio.timeout(WAIT_S):
                    await outer.ended()
            except TimeoutError:
                raise _refusal(
                    service, outer, called, f", by a task that has waited {WAIT_S:g} s for its end"
                ) from None
        elif outer.open and outer.handler and not requested:
            if called:
                raise _refusal(service, outer, called)
            raise UsageError(
                f"a step of {service} was opened inside {outer.what}: it would commit by itself, again at each attempt "
                f"of that handler. Publish an event that {service} handles"
            )
        outer = outer.outer


def check_aside(service: str, what: str, *, requested: bool) -> None:
    """Raise UsageError where a transaction beside the step or handler that is open here would commit without it, or
    wait for it: also in a thread that it has begun. what: begins the sentence. requested: as in `check_step`."""
    task = _this_task()  # None: a thread, for which somebody in that step waits
    outer = _outer()
    while outer is not None:
        mine = outer.service == service and (task is None or outer.task is task)
        if outer.open and (mine or (outer.handler and not requested)):
            use = "a parameter annotated `step: Step`" if outer.handler else "its `step.publish(...)`"
            raise UsageError(
                f"{what} inside {outer.what}: it would commit by itself, "
                f"{'again at each attempt' if outer.handler else 'without that step'}. Use {use}, and its session"
            )
        outer = outer.outer


def check_wait(service: str) -> None:
    """Raise UsageError where a wait for what handlers of `service` do would be one for oneself."""
    outer = _outer()
    while outer is not None:
        if outer.open and outer.service == service and outer.task is asyncio.current_task():
            raise UsageError(
                f"service {service} waits for a token inside {outer.what}, which holds up what it waits for. Wait "
                "before it begins, or after it has ended"
            )
        outer = outer.outer


def _refusal(service: str, outer: _Open, called: str, how: str = "") -> UsageError:
    if called:
        return UsageError(
            f"service {service} calls {called} inside {outer.what}{how}: the answer may wait for what that has not "
            f"committed. Send it with the step, step.send({called}(...)), and handle the event that follows from it"
        )
    use = "the handler's own step, a parameter annotated `step: Step`" if outer.handler else "the step that is open"
    return UsageError(
        f"a step of {service} was opened inside {outer.what}{how}: it would commit without it. Use {use}, or open one "
        "after it has ended"
    )
