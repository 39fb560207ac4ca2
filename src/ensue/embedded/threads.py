"""Work in a thread, also while the process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


def in_thread(executor: Executor | None, work: Callable[[], T]) -> asyncio.Future[T]:
    """Begin `work` in a thread of the executor; None: in one of the event loop's.

    At the end of a process Python begins no more threads for work, while event loops in other threads still run: to
    close a service there, and to commit in a thread that has outlived the main one. Then the work is done at once, on
    the loop.
    """
    loop = asyncio.get_running_loop()
    try:
        return loop.run_in_executor(executor, work)
    except RuntimeError as error:
        if "interpreter shutdown" not in str(error):
            raise
    done: asyncio.Future[T] = loop.create_future()
    try:
        done.set_result(work())
    except Exception as error:
        done.set_exception(error)
    return done
