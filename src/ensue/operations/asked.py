"""Asking a database or a log for several things, of which one may fail or take too long and leave the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from ensue.addresses import masked
from ensue.errors import EnsueError

T = TypeVar("T")


class Asked:
    """Each part of the answer for itself. answer_s: how long one may take. within_s: how long all of them may, from
    now. unanswered: those that failed, and why."""

    def __init__(self, answer_s: float, within_s: float | None = None) -> None:
        self._answer_s = answer_s
        self._until = None if within_s is None else asyncio.get_running_loop().time() + within_s
        self.unanswered: dict[str, str] = {}

    async def __call__(self, part: str, asked: Awaitable[T], otherwise: T) -> T:
        patience_s = self.patience_s(self._answer_s)
        try:
            async with asyncio.timeout(patience_s):
                return await asked
        except TimeoutError:
            self.unanswered[part] = f"no answer within {patience_s:.3g} s"
        except EnsueError as error:
            self.unanswered[part] = masked(str(error))
        return otherwise

    def patience_s(self, answer_s: float) -> float:
        """How long the next part may take: no longer than all of them."""
        if self._until is None:
            return answer_s
        return max(min(answer_s, self._until - asyncio.get_running_loop().time()), 0.0)
