"""Whose fault an error is: a handler's, another process's, or the database's."""

from __future__ import annotations

import asyncio

from ensue.engine.endings import ends_handler
from ensue.errors import CheckpointConflict, HandlerCancelled, StoreUnavailable, causes

#: Not the message's fault: the loop deals with these, no attempt is counted.
NOT_THE_MESSAGE = (StoreUnavailable, CheckpointConflict)
#: By name, being SQLAlchemy's and the drivers': a constraint that the step violates, a row whose version moved.
_RACES = frozenset({"IntegrityError", "UniqueViolation", "UniqueViolationError", "DuplicateKeyError", "StaleDataError"})


def blamed(error: BaseException) -> BaseException:
    """The failure of a handler that ended with `error`; raises `error` when it is no failure of the handler's."""
    if ends_handler(error):
        raise error
    if isinstance(error, asyncio.CancelledError):
        inside = HandlerCancelled(f"the handler ended with CancelledError({error}), but nobody has cancelled the step")
        inside.__cause__ = error  # it leads to the place
        return inside
    return error


def lost_a_race(error: BaseException) -> bool:
    """Whether `error` is what a step meets when another process was quicker: a row that is there by now, or that is not
    as it was read. It may be the handler's own fault as well, which another attempt tells."""
    names = {cls.__name__ for each in causes(error) for cls in type(each).__mro__}
    return not names.isdisjoint(_RACES)
