"""A message whose handler always loses the database: the server ends the session that its statement is in, say.

Each attempt ends as if the database were away, and no attempt is counted then. It is, when the database answers others.
What may befall any message is never counted, whatever else the database answers: a full disk, an I/O error, a server
that lets nobody write. All wait until it has passed.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ensue.engine.context import Context
from ensue.errors import EnsueError, HandlerLosesStore, StoreLost

#: So many attempts in a row of a message alone are one failed attempt.
LOSSES_MAX: Final = 3
#: How long the database may take to answer others, in seconds.
_ANSWER_S = 2.0


async def answers(context: Context, error: BaseException) -> bool:
    """Whether a step has just lost the store, which answers others."""
    if not isinstance(error, StoreLost):
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
        f"the database ended each of {attempts} attempts, while it answers others; the last time: {error}. Look for a "
        "statement that takes too long or too much memory for the server, or ends its session",
        attempts=attempts,
    )
    lost.__cause__ = error
    return lost
