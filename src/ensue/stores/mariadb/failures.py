"""What MariaDB's error numbers mean to a step: do it again, wait, or it is the statement's own fault."""

from __future__ import annotations

from ensue.errors import EnsueError, StoreConflict, StoreUnavailable, UsageError

#: Lock wait timeout, deadlock; record has changed since last read (innodb_snapshot_isolation).
_CONFLICT = frozenset({1205, 1213, 1020})
#: Too many connections, out of memory, disk full, server shutdown, net errors, connection killed, read-only server.
_UNAVAILABLE = frozenset({
    1021, 1037, 1038, 1040, 1041, 1053, 1077, 1078, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1290, 1836,
    1927, 2002, 2003, 2006, 2013, 2055, 4031,
})  # fmt: skip
#: Query interrupted by an operator, statement timeouts. The server goes on, and every attempt of the same message may
#: end so: it is the statement's own.
_INTERRUPTED = frozenset({1317, 1969, 3024})
#: Access denied, unknown database.
_USAGE = frozenset({1044, 1045, 1049, 1698})
_LOST = frozenset({1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2002, 2003, 2006, 2013, 2055, 4031})
DUPLICATE = 1062
#: Access denied: a privilege is missing.
DENIED = 1227
UNKNOWN_VARIABLE = 1193
READ_ONLY = 1792


def code_of(error: BaseException) -> int:
    """The number of a driver's error; 0: it has none."""
    code = error.args[0] if error.args else 0
    return code if isinstance(code, int) and type(error).__module__.startswith("asyncmy") else 0


def of_error(error: BaseException, place: str) -> EnsueError | None:
    """Return our error; None: the statement's own fault."""
    code = code_of(error)
    if code in _CONFLICT:
        return StoreConflict(
            f"{place}: another transaction was in the way ({_text(error)}): do the step again", code=code
        )
    if code in _UNAVAILABLE:
        return unreachable(error, place)
    return None


def at_connecting(error: BaseException, place: str) -> EnsueError:
    code = code_of(error)
    if code in _USAGE:
        return UsageError(f"{place}: {_text(error)}: see user, password and database in the URL", code=code)
    return of_error(error, place) or unreachable(error, place)


def is_lost(error: BaseException) -> bool:
    return code_of(error) in _LOST


def is_interruption(error: BaseException) -> bool:
    """Whether the server gave a statement up and goes on."""
    return code_of(error) in _INTERRUPTED


def unreachable(error: BaseException, place: str) -> StoreUnavailable:
    return StoreUnavailable(f"{place} does not answer: {_text(error)}", code=code_of(error))


def _text(error: BaseException) -> str:
    return ", ".join(map(str, error.args)) or type(error).__name__
