"""`ensue run --reload`: whoever is told when the code has changed. For development."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from ensue.errors import UsageError, not_installed
from ensue.texts import logger

log = logger("ensue.run")

_SHOWN_MAX = 3


def watched(directories: Sequence[Path]) -> list[Path]:
    """Return what is to be watched, by default where the command runs. Raises UsageError for what is no directory, or
    without the library, before anything is started."""
    try:
        import watchfiles  # noqa: F401  # whether it is there
    except ImportError as error:
        raise not_installed("ensue run --reload", "reload") from error
    for each in directories:
        if not each.is_dir():
            raise UsageError(f"--reload-dir {each} is no directory in {os.getcwd()}")
    return [each.absolute() for each in directories] or [Path.cwd()]


@contextlib.asynccontextmanager
async def watching(directories: Sequence[Path], changed: Callable[[], None]) -> AsyncIterator[None]:
    """Inside this block, call `changed` when Python files in these directories have changed: once for what changes
    together. Hidden directories of tools and virtual environments named .venv are left out.

    What is written after the block has begun is seen. Raises UsageError when the system does not let it watch.
    """
    logger("watchfiles.main").setLevel("WARNING")  # it counts what it has seen, which `_watch` says
    stop = asyncio.Event()
    task = asyncio.create_task(_watch(directories, changed, stop), name="ensue reload")
    await asyncio.sleep(0)  # the task runs until it waits for the first change: from here on it watches
    try:
        if task.done():
            await task
        yield
    finally:
        stop.set()
        if not task.done():
            await task


async def _watch(directories: Sequence[Path], changed: Callable[[], None], stop: asyncio.Event) -> None:
    from watchfiles import PythonFilter, awatch

    try:
        async for changes in awatch(*directories, watch_filter=PythonFilter(), stop_event=stop):
            names = sorted({_shown(path) for _, path in changes})
            more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
            log.info("%s%s changed: starting anew", ", ".join(names[:_SHOWN_MAX]), more)
            changed()
    except OSError as error:  # no more inotify watches, say
        text = f"--reload: {', '.join(map(str, directories))} cannot be watched: {error}"
        log.error("%s", text)
        raise UsageError(text) from error


def _shown(path: str) -> str:
    return os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
