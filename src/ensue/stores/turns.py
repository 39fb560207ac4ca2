"""Whose turn it is to write: one transaction at a time, first come first served, and no waiting for oneself."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from ensue.errors import UsageError


class Turn:
    """One writer's turn. `open` from acquire to release; `outer` is the turn inside of which it began, if any."""

    __slots__ = ("open", "outer", "turns")

    def __init__(self, turns: Turns, outer: Turn | None) -> None:
        self.turns = turns
        self.outer = outer
        self.open = True


#: The innermost turn of this task, and of tasks begun inside it: what a nested one would wait for, for ever.
_innermost: ContextVar[Turn | None] = ContextVar("ensue_turn", default=None)


class Turns:
    """A fair lock for the single writer of a store. name: of the store, for the error text."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = asyncio.Lock()

    async def acquire(self) -> Turn:
        """Wait for the turn. Cancelled while it waits, it has taken nothing.

        Raises UsageError when the caller, or the task it was begun by, has the turn already: it would wait for ever.
        """
        outer = _innermost.get()
        while outer is not None and not outer.open:
            outer = outer.outer
        around = outer
        while around is not None:
            if around.open and around.turns is self:
                raise UsageError(
                    f"{self._name}: a transaction was opened inside another one of the same store, which would wait "
                    "for it for ever. Use the step that is open, or open the second one after the first has ended"
                )
            around = around.outer
        # Everything else in an embedded store runs to its end without a pause; here the other tasks get theirs.
        await asyncio.sleep(0)
        await self._lock.acquire()
        turn = Turn(self, outer)
        _innermost.set(turn)
        return turn

    def release(self, turn: Turn) -> None:
        turn.open = False
        self._lock.release()
        if _innermost.get() is turn:
            _innermost.set(turn.outer)
