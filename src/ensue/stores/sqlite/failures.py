"""What went wrong with the database itself becomes StoreUnavailable or UsageError; what the user's SQL did stays."""

from __future__ import annotations

import sqlite3

from ensue.embedded.connection import translated
from ensue.errors import EnsueError, StoreLost, StoreUnavailable

#: SQLite's primary result codes that speak of the file, the disk or a lock, and not of a statement.
_OF_THE_DATABASE = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM,
    }
)  # fmt: skip
#: A transaction that is open has the file's lock: it is itself in the way, or what it asks for is too much.
_PERHAPS_ITS_OWN = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM})


def failure_of_database(error: BaseException, path: str) -> EnsueError | None:
    """Return our error for one that came from the database itself, also through SQLAlchemy; None for any other."""
    cause = getattr(error, "orig", error)
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(cause, sqlite3.Error) and isinstance(code, int) and code & 0xFF in _OF_THE_DATABASE:
        return translated(cause, path, StoreLost if code & 0xFF in _PERHAPS_ITS_OWN else StoreUnavailable)
    return None


def raise_unavailable(error: sqlite3.Error, path: str) -> None:
    """Raise StoreUnavailable for what may pass (a full disk, an I/O error), where it happens: else it looks to the
    engine like the fault of the message whose handler met it."""
    ours = failure_of_database(error, path)
    if isinstance(ours, StoreUnavailable):
        raise ours from error
