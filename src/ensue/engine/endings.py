"""Which errors end a task or the process, and which are only raised as if they did.

Any BaseException may come out of a user's code: a Rust extension's panic, sys.exit(), a CancelledError of something it
awaited. A loop that let it pass would end, and the next heartbeat would begin it anew at the same record, for ever.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any


class LoopTask(asyncio.Task[None]):
    """The task of a loop, which knows the cancellations that came from code that it ran itself, that is, a handler."""

    by_itself = 0

    def cancel(self, msg: Any = None) -> bool:
        if asyncio.current_task(self.get_loop()) is self:
            self.by_itself += 1
        return super().cancel(msg)

    def uncancel(self) -> int:
        self.by_itself = max(self.by_itself - 1, 0)
        return super().uncancel()


def ends_task(error: BaseException) -> bool:
    """Whether `error` says that the running task was cancelled by others, or that its coroutine is closed.

    A task that a handler has cancelled from inside goes on: its cancellation is taken back.
    """
    if isinstance(error, GeneratorExit):
        return _no_loop()
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    if task is None or task.cancelling() > getattr(task, "by_itself", 0):
        return True
    while task.cancelling():
        task.uncancel()
    return False


def ends_handler(error: BaseException) -> bool:
    """Whether what came out of a handler is not its failure: the task's end, or the Ctrl-C of whoever runs it.

    SystemExit counts as a failure: it would end the process again with each delivery.
    """
    return ends_task(error) or (isinstance(error, KeyboardInterrupt) and _may_be_ctrl_c())


def ends_loop(error: BaseException) -> bool:
    """As `ends_handler`, in our own code: it never asks for the process's end, so a SystemExit is a signal's."""
    return ends_task(error) or isinstance(error, KeyboardInterrupt | SystemExit)


def _no_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _may_be_ctrl_c() -> bool:
    """Whether SIGINT raises KeyboardInterrupt here: by Python's or asyncio's handler, in the main thread.

    `ensue run` and web servers have handlers of their own, which do not.
    """
    handler = signal.getsignal(signal.SIGINT)
    raises = getattr(getattr(handler, "func", handler), "__module__", "") in ("_signal", "asyncio.runners")
    return raises and threading.current_thread() is threading.main_thread()
