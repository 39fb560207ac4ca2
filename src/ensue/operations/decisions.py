"""What people have decided about a service, who, and why."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ensue.deciding import Decision
from ensue.operations.opening import Opened


def decisions(access: Opened) -> AsyncGenerator[Decision, None]:
    """All of them in the order in which they were taken, read in pages: nothing prunes them, so there may be many."""
    return access.books.decisions()


async def last_decisions(access: Opened, limit: int) -> list[Decision]:
    """Up to `limit` of the last ones, in the order in which they were taken."""
    async with aclosing(decisions(access)) as found:
        last: deque[Decision] = deque(maxlen=limit)
        async for each in found:
            last.append(each)
    return list(last)


async def decision_count(access: Opened) -> int:
    return await access.books.decision_count()
