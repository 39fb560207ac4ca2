"""What PostgreSQL's error codes mean to a step: do it again, wait, or it is the statement's own fault."""

from __future__ import annotations

from ensue.errors import EnsueError, StoreConflict, StoreLost, StoreUnavailable, UsageError

#: Another transaction was in the way: serialization_failure, deadlock_detected, lock_not_available.
_CONFLICT = frozenset({"40001", "40P01", "55P03"})
#: Connection failures, a server that starts or stops, no room; read_only_sql_transaction: a standby since a failover;
#: idle_in_transaction_session_timeout.
_UNAVAILABLE = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25006", "25P03", "25P04"})
_UNAVAILABLE_CLASSES = frozenset({"08", "53", "58"})
#: query_canceled: by statement_timeout or an operator; configuration_limit_exceeded: too big a temporary file;
#: undefined_file, duplicate_file: of a COPY or a library. The server goes on, and every attempt of the same message may
#: end so: it is the statement's own. An internal error, class XX, is, too.
_INTERRUPTED = frozenset({"57014", "53400", "58P01", "58P02"})
#: invalid_authorization, invalid_password, no such database, not allowed.
DENIED = "42501"
#: Of a table that is made: nothing in the search path is a schema, or one that the user may look into.
NO_SCHEMA = "3F000"
#: The server's function that reports a right which the user lacks. Row security and RAISE have the same code, and speak
#: of what a statement writes.
_NO_RIGHT = ("aclcheck_error", "aclcheck_error_col")
_USAGE = frozenset({"28000", "28P01", "3D000", DENIED})
#: No such role, or pg_hba.conf has no line for such a connection.
_NOT_ALLOWED = "28000"
READ_ONLY = "25006"
#: The server has ended the connection, or is about to.
_LOST = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"})
#: out_of_memory: the server's, or what one statement wants is too much for it.
_MEMORY = "53200"


def of_error(error: BaseException, place: str) -> EnsueError | None:
    """Return our error for a driver's; None: the statement's own fault."""
    code = code_of(error)
    if code == DENIED and _reported_by(error) in _NO_RIGHT:
        return StoreUnavailable(f"{place}: {error} ({code}): GRANT it, all wait until then", code=code)
    return of_code(code, str(error), place)


def of_code(code: str, text: str, place: str) -> EnsueError | None:
    """Return our error for an SQLSTATE; None: the statement's own fault."""
    if code in _CONFLICT:
        return StoreConflict(
            f"{place}: another transaction was in the way ({code}: {text}): do the step again", code=code
        )
    if is_interruption(code):
        return None
    if code in _UNAVAILABLE or code[:2] in _UNAVAILABLE_CLASSES:
        kind = StoreLost if is_lost(code) or code == _MEMORY else StoreUnavailable
        return kind(f"{place}: {text} ({code})", code=code)
    return None


def at_connecting(code: str, text: str, place: str) -> EnsueError | None:
    if code in _USAGE:
        hint = "; and sslmode, where the server takes no connection without TLS" if code == _NOT_ALLOWED else ""
        return UsageError(f"{place}: {text} ({code}): see user, password and database in the URL{hint}", code=code)
    return of_code(code, text, place)


def is_lost(code: str) -> bool:
    return code in _LOST or code[:2] == "08"


def is_interruption(code: str) -> bool:
    """Whether the server gave a statement up and goes on."""
    return code in _INTERRUPTED or code[:2] == "XX"


def unreachable(error: BaseException, place: str) -> StoreUnavailable:
    return StoreUnavailable(_silent(error, place))


def gone(error: BaseException, place: str) -> StoreLost:
    """Of a connection that stood."""
    return StoreLost(_silent(error, place))


def _silent(error: BaseException, place: str) -> str:
    return f"{place} does not answer: {str(error) or type(error).__name__}"


def _reported_by(error: BaseException) -> str:
    """The function of the server's source that reported an error, in the words of either driver; empty: not known."""
    found = getattr(error, "server_source_function", None) or getattr(
        getattr(error, "diag", None), "source_function", ""
    )
    return found if isinstance(found, str) else ""


def code_of(error: BaseException) -> str:
    """The SQLSTATE of a driver's error; empty: it has none."""
    code = getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else ""
