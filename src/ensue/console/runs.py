"""What was begun by forms of the console: each once, however often its form is sent; and how far it is.

Kept in the memory of the process. What outlives it is what the decisions are made of: a letter that somebody has
decided is passed over by whoever comes later.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Awaitable, Callable
from typing import Any

from ensue.addresses import masked
from ensue.errors import EnsueError
from ensue.texts import logger

log = logger("ensue.console")

#: The last ones are kept.
_KEPT_MAX = 1000


class RunState(enum.StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclasses.dataclass(eq=False)
class Run:
    """One thing that somebody decided. id: of its form. subject: what it is about, to find it by. back: the path of the
    page where it was decided. said: what has come of it so far. done, total: of how many; total 0: it is one thing.
    wave: of a retry by waves, from 1; before_wave: what was done when it began. refused: nothing was done at all,
    so the form may be sent again, corrected."""

    id: str
    title: str
    actor: str
    reason: str
    subject: tuple[str, str]
    back: str
    state: RunState = RunState.RUNNING
    said: str = "begun"
    done: int = 0
    total: int = 0
    wave: int = 0
    before_wave: int = 0
    refused: bool = False
    revision: int = 0
    over: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def tell(self, said: str, done: int = 0, total: int = 0) -> None:
        self.said, self.done, self.total = said, done, max(total, self.total)
        self.revision += 1

    async def is_over_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.over.wait()
        except TimeoutError:
            return False
        return True


Work = Callable[[Run], Awaitable[None]]


class Runs:
    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def about(self, subject: tuple[str, str]) -> list[Run]:
        """The runs about this, the last first, as far as they are kept."""
        return [each for each in reversed(self._runs.values()) if each.subject == subject]

    def in_background(self, run: Run, work: Work) -> Run:
        """Begin it unless this form did already; return the run, which goes on by itself."""
        known = self._runs.get(run.id)
        if known is not None and not known.refused:
            return known
        self._runs[run.id] = run
        over = [each.id for each in self._runs.values() if each.over.is_set()]
        for old in over[: max(len(self._runs) - _KEPT_MAX, 0)]:
            del self._runs[old]
        # By a task of its own: the browser may go away, and what was begun is brought to its end all the same.
        task = asyncio.create_task(_done(run, work), name=f"ensue console {run.title}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def stop(self) -> None:
        """End what still runs. A group's retry leaves letters as they were, or released, as it does at any time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _done(run: Run, work: Work) -> None:
    try:
        await work(run)
        if run.state is RunState.RUNNING:
            run.state = RunState.DONE
    except EnsueError as error:
        run.state, run.refused = RunState.FAILED, run.revision == 0
        run.tell(masked(str(error)), run.done)
    except asyncio.CancelledError:
        run.state = RunState.FAILED
        run.tell("stopped, since the console was", run.done)
        raise
    except Exception as error:
        log.exception("%s", run.title)
        run.state = RunState.FAILED
        run.tell(f"an error in the console: {type(error).__name__}; its log says more", run.done)
    finally:
        run.revision += 1
        run.over.set()
