"""What must not stop halfway, a commit or a rollback, goes on to its end when whoever waits for it is cancelled.

So nobody is told "cancelled" of a commit that may still happen later. `to_end` has a time limit of its own; `unbroken`
is for clients whose time limits cancel the task they are in; `outlast` for what is under way already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: How long work may take to notice that its connection was hung up, before it is cancelled after all.
NOTICE_S = 1.0


async def to_end(
    work: Coroutine[Any, Any, T], limit_s: float | None = None, hang_up: Callable[[], None] | None = None
) -> tuple[T, asyncio.CancelledError | None]:
    """Wait for `work` to its end, return its result and the cancellation that came meanwhile.

    A cancellation is never lost: it is returned with a result, and raised, with the error as its cause, when there is
    none. After limit_s `hang_up` is called, which should make the work fail; what then goes on for NOTICE_S is
    cancelled. Raises TimeoutError when the work was ended by that.
    """
    task = _Deaf(work)
    limit = None if limit_s is None else _Limit(task, limit_s, hang_up)
    cancelled: asyncio.CancelledError | None = None
    try:
        while not task.done():
            try:
                await task
            except asyncio.CancelledError as error:
                if task.done() and task.cancelled():
                    break
                cancelled = error
            except BaseException:
                break  # told by result(), below
    finally:
        if limit is not None:
            limit.off()
    try:
        return task.result(), cancelled
    except BaseException as error:
        if cancelled is not None:
            raise cancelled from error
        if limit is not None and limit.passed:
            raise TimeoutError(f"given up after {limit_s:g} s") from error
        raise


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work`, which must have a time limit, to its end; then raise the cancellation that came meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled = await outlast(task)
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result


async def outlast(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `work` is done, well or badly; return the cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


class _Deaf(asyncio.Task[T]):
    """A task that is not cancelled with the one that waits for it; that one hears of it when this one has ended.

    What `asyncio.shield` does, with a turn of the loop less for each step. When the loop is closed it can be cancelled.
    """

    def cancel(self, msg: Any = None) -> bool:
        return False if self.get_loop().is_running() else super().cancel(msg)

    def give_up(self) -> None:
        super().cancel()


class _Limit:
    """A timer beside the task: one inside of it would have to cancel it, and it is deaf."""

    __slots__ = ("_hang_up", "_task", "_timer", "passed")

    def __init__(self, task: _Deaf[Any], limit_s: float, hang_up: Callable[[], None] | None) -> None:
        self._task = task
        self._hang_up = hang_up
        self._timer = task.get_loop().call_later(limit_s, self._pass)
        self.passed = False

    def _pass(self) -> None:
        self.passed = True
        self._timer = self._task.get_loop().call_later(NOTICE_S, self._task.give_up)
        if self._hang_up is not None:
            self._hang_up()

    def off(self) -> None:
        self._timer.cancel()
