"""Asking a database or a log for several things, of which one may fail or take too long and leave the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from ensue.addresses import masked
from ensue.errors import EnsueError

T = TypeVar("T")


class Asked:
    """Each part of the answer for itself. answer_s: how long one may take. unanswered: those that failed, and why."""

    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s
        self.unanswered: dict[str, str] = {}

    async def __call__(self, part: str, asked: Awaitable[T], otherwise: T) -> T:
        try:
            async with asyncio.timeout(self._answer_s):
                return await asked
        except TimeoutError:
            self.unanswered[part] = f"no answer within {self._answer_s:g} s"
        except EnsueError as error:
            self.unanswered[part] = masked(str(error))
        return otherwise
