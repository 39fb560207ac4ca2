"""From the driver's exceptions to ours: who acts, the loop or a person."""

from __future__ import annotations

import asyncpg

from ensue.errors import BrokerUnavailable, EnsueError, RecordRefused, UsageError

#: What the driver and the network raise. (TimeoutError is an OSError.)
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

#: The tables are gone: the log was dropped, or the database is another one.
GONE = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)

_REFUSED = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.ProgramLimitExceededError)
_SETTINGS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedObjectError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.ClientConfigurationError,
)


def translated(error: BaseException, place: str, *, opening: bool = False) -> EnsueError:
    """Return our error for one of FAILURES.

    opening: a wrong password or database is the operator's to put right then, and worth no retry; in a running
    process it may be a change that is under way, so the loops keep trying.
    """
    first_line, *_ = str(error).splitlines() or [""]  # DETAIL and HINT are in the server's log
    what = f"{type(error).__name__}: {first_line}".rstrip(": ")
    if opening and isinstance(error, _SETTINGS):
        return UsageError(f"the log in PostgreSQL at {place} cannot be opened: {what}. See ENSUE_BROKER", place=place)
    unfit = isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)  # found before it was sent
    if unfit or isinstance(error, _REFUSED):
        return RecordRefused(f"the log in PostgreSQL at {place} refuses a record: {what}")
    return BrokerUnavailable(f"the log in PostgreSQL at {place} does not answer: {what}", place=place)
