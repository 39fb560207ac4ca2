"""Whose turn it is to write: one transaction at a time, first come first served, and no waiting for oneself."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from ensue.errors import UsageError


class Turn:
    """One writer's turn. `open` from acquire to release; `outer` is the turn inside of which it began, if any."""

    __slots__ = ("open", "outer", "task", "turns")

    def __init__(self, turns: Turns, outer: Turn | None) -> None:
        self.turns = turns
        self.outer = outer
        self.task = asyncio.current_task()
        self.open = True


#: The innermost turn of this task and of tasks begun inside it: what a nested one may be waiting for in vain.
_innermost: ContextVar[Turn | None] = ContextVar("ensue_turn", default=None)

#: A task that was begun inside a turn may well wait for its end; or that turn waits for the task, and nobody goes on.
NESTED_WAIT_S = 10.0


class Together:
    """As `Turns`, for a store whose transactions need not wait for each other."""

    def __init__(self) -> None:
        self._open = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def acquire(self) -> None:
        self._open += 1
        self._quiet.clear()

    def release(self, turn: None = None) -> None:
        self._open -= 1
        if not self._open:
            self._quiet.set()

    async def quiet(self) -> None:
        """Wait until none is open."""
        await self._quiet.wait()


class Turns:
    """A fair lock for the single writer of a store. name: of the store, for the error text."""

    def __init__(self, name: str, nested_wait_s: float = NESTED_WAIT_S) -> None:
        self._name = name
        self._nested_wait_s = nested_wait_s
        self._lock = asyncio.Lock()

    async def acquire(self) -> Turn:
        """Wait for the turn. Cancelled while it waits, it has taken nothing.

        Raises UsageError at once when the calling task has the turn already, since it would wait for ever; and after
        nested_wait_s when the task was begun inside a turn that is still not over.
        """
        outer = _innermost.get()
        while outer is not None and not outer.open:
            outer = outer.outer
        around = self._around(outer)
        # Everything else in an embedded store runs to its end without a pause; here the other tasks get theirs.
        await asyncio.sleep(0)
        if around is None:
            await self._lock.acquire()
        else:
            await self._acquire_inside(around)
        turn = Turn(self, outer)
        _innermost.set(turn)
        return turn

    def release(self, turn: Turn) -> None:
        turn.open = False
        self._lock.release()
        if _innermost.get() is turn:
            _innermost.set(turn.outer)

    def _around(self, outer: Turn | None) -> Turn | None:
        """The open turn of this store inside of which the caller is."""
        while outer is not None and not (outer.open and outer.turns is self):
            outer = outer.outer
        return outer

    async def _acquire_inside(self, around: Turn) -> None:
        if around.task is asyncio.current_task():
            raise self._nested("inside another one of the same store, which would wait for it for ever")
        try:
            async with asyncio.timeout(self._nested_wait_s):
                await self._lock.acquire()
        except TimeoutError:
            if not around.open:  # its end came, but others were first: an ordinary wait from now on
                await self._lock.acquire()
                return
            raise self._nested(
                f"by a task begun inside another one of the same store, and waited {self._nested_wait_s} s for its end"
            ) from None

    def _nested(self, how: str) -> UsageError:
        return UsageError(
            f"{self._name}: a transaction was opened {how}. Use the step that is open, or open the second one after "
            "the first has ended"
        )
