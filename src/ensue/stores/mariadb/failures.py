"""What MariaDB's error numbers mean to a step: do it again, wait, or it is the statement's own fault."""

from __future__ import annotations

import re

from ensue.errors import EnsueError, StoreConflict, StoreLost, StoreUnavailable, UsageError

#: Lock wait timeout, deadlock; record has changed since last read (innodb_snapshot_isolation).
_CONFLICT = frozenset({1205, 1213, 1020})
#: Disk full, table full, full while a table is made (MySQL); too many connections, server shutdown, read-only server.
_UNAVAILABLE = frozenset({1021, 1114, 3675, 1040, 1077, 1078, 1079, 1203, 1290, 1836})
#: Writing a file, the storage engine, a commit: these tell the operating system's error in their text.
_OF_THE_SYSTEM = frozenset({3, 1026, 1030, 1180})
#: EIO, ENOSPC, EROFS, EDQUOT: no room, or a disk that fails.
_DISK = frozenset({5, 28, 30, 122})
#: Query interrupted by an operator, statement timeouts. The server goes on, and every attempt of the same message may
#: end so: it is the statement's own.
_INTERRUPTED = frozenset({1317, 1969, 3024})
#: Access denied, unknown database.
_USAGE = frozenset({1044, 1045, 1049, 1698})
#: Net errors, connection killed: this one is gone, or is about to be.
_LOST = frozenset({1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2002, 2003, 2006, 2013, 2055, 4031})
#: The server's, or what one statement wants is too much for it.
_MEMORY = frozenset({1037, 1038, 1041})
#: What follows it is the system's own word: in quotes by MariaDB, after a dash by MySQL.
_SYSTEM_ERROR = re.compile(r'\b(\d+)(?: "| - )')
DUPLICATE = 1062
#: Access denied: a privilege is missing.
DENIED = 1227
#: The same, of a table or of one of its columns.
DENIED_TABLE = frozenset({1142, 1143})
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
    if code in _LOST or code in _MEMORY:
        return gone(error, place)
    if code in DENIED_TABLE:
        return StoreUnavailable(f"{place}: {_text(error)}: GRANT it, all wait until then", code=code)
    if code in _UNAVAILABLE or (code in _OF_THE_SYSTEM and _system_error(error) in _DISK):
        return StoreUnavailable(f"{place} cannot serve now: {_text(error)}", code=code)
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


def gone(error: BaseException, place: str) -> StoreLost:
    """Of a connection that stood."""
    return StoreLost(f"{place} does not answer: {_text(error)}", code=code_of(error))


def _system_error(error: BaseException) -> int:
    r"""The operating system's number in the text of a server's error, whose language `lc_messages` decides; 0: none.

    >>> _system_error(ValueError(1030, 'Got error 28 "No space left on device" from storage engine InnoDB'))
    28
    >>> _system_error(ValueError(1026, "Fehler beim Speichern der Datei 'a' (Fehler: 28 \"No space left on device\")"))
    28
    >>> _system_error(ValueError(3, "Error writing file 'a' (OS errno 28 - No space left on device)"))
    28
    """
    found = _SYSTEM_ERROR.findall(_text(error))
    return int(found[-1]) if found else 0


def _text(error: BaseException) -> str:
    return ", ".join(map(str, error.args)) or type(error).__name__
