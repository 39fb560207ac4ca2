"""A message whose handler always loses the connection to the database: a statement that the server kills, say.

Each attempt ends as if the database were away, and no attempt is counted then. It is, when the database answers others.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ensue.engine.context import Context
from ensue.errors import EnsueError, HandlerLosesStore, StoreConflict, StoreUnavailable

#: So many attempts in a row of a message alone are one failed attempt.
LOSSES_MAX: Final = 3
#: How long the database may take to answer others, in seconds.
_ANSWER_S = 2.0


async def answers(context: Context, error: BaseException) -> bool:
    """Whether the store answers although a step has just lost it. A lost race says nothing of that."""
    if not isinstance(error, StoreUnavailable) or isinstance(error, StoreConflict):
        return False
    try:
        async with asyncio.timeout(_ANSWER_S):
            await context.store.now()
    except (TimeoutError, EnsueError):
        return False
    return True


def lost_for(error: BaseException, attempts: int) -> HandlerLosesStore:
    """The failure of a message of which so many attempts ended with `error`."""
    lost = HandlerLosesStore(
        f"the connection to the database was lost in each of {attempts} attempts, while the database answers others; "
        f"the last time: {error}. Look for a statement that takes too long for the server, or ends its session",
        attempts=attempts,
    )
    lost.__cause__ = error
    return lost
