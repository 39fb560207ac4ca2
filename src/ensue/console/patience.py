"""How long a request waits for a database that is slow, locked or hangs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from ensue.addresses import masked
from ensue.errors import EnsueError, UsageError
from ensue.texts import logger

T = TypeVar("T")

log = logger("ensue.console")

#: How long a page, and an answer of the API, may take, unless the host says otherwise: seconds.
ANSWER_S: Final = 30.0
#: How long a decision goes on for which nobody waits any more: seconds. It may be one on many letters.
GOES_ON_S: Final = 600.0
#: The event loop itself keeps tasks by weak references alone.
_tasks: set[asyncio.Task[Any]] = set()


class NoAnswer(EnsueError):
    """It was not over in time: HTTP 504. goes_on: it was begun, and is brought to its end."""

    goes_on: bool


def checked_answer_s(answer_s: object) -> float:
    """Raise UsageError for what is no time to wait."""
    if isinstance(answer_s, int | float) and not isinstance(answer_s, bool) and 0 < answer_s < math.inf:
        return float(answer_s)
    raise UsageError(f"answer_s={answer_s!r:.40}, expected seconds, such as {ANSWER_S:g}")


async def within(
    answer_s: float,
    work: Coroutine[Any, Any, T],
    *,
    decides: bool = False,
    goes_on: bool = False,
    since: float | None = None,
) -> T:
    """Return what the work returns, or raise what it raises; NoAnswer when it is not over after answer_s. since: from
    which time on that counts, as the event loop's clock has it; None: from now on.

    It is a task of its own, which is not waited for any longer then: what has hung may hang again when it is closed.
    decides: it may change something. goes_on: to cancel it would leave a part of it done, and perhaps a commit of which
    nobody knows; so it goes on, for GOES_ON_S at most. Whatever else it is is cancelled.
    """
    left_s = answer_s if since is None else max(since + answer_s - asyncio.get_running_loop().time(), 0.0)
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    try:
        done, _ = await asyncio.wait({task}, timeout=left_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.add_done_callback(_late)
    if not goes_on:
        task.cancel()
        said = f"no answer within {answer_s:g} s: a database or the log is slow, locked or hangs; "
        said += (
            "it is ended, and some of it may have been decided: look at the decisions of the service"
            if decides
            else "nothing was changed"
        )
        raise NoAnswer(said, goes_on=False)
    asyncio.get_running_loop().call_later(GOES_ON_S, task.cancel)
    raise NoAnswer(
        f"this was begun, and is not over after {answer_s:g} s; it goes on, so it may have been decided, or may yet "
        "be: look at the decisions of the service before you decide it again. With an Idempotency-Key the same request "
        "gets its answer when it is over",
        goes_on=True,
    )


def _late(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("what was not answered in time ended by %s: %s", type(error).__name__, masked(str(error)))
