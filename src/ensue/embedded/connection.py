"""SQLite connections as Ensue wants them: WAL, transactions begun by us, and no wait that blocks the event loop.

SQLite's own busy timeout sleeps inside the C call, with the whole event loop behind it. So it is off, and whoever
meets a lock comes back a little later (`begin_immediate`, `retry_while_busy`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

from ensue.addresses import masked
from ensue.errors import EnsueError, RetryableError, StoreUnavailable, UsageError

SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
#: RETURNING needs 3.35, STRICT tables 3.37.
SQLITE_MINIMUM = (3, 37, 0)
BUSY_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.0002
PAUSE_MAX_S = 0.005

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FORBIDDEN = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})

T = TypeVar("T")


def parse_sqlite_url(url: str) -> tuple[str, dict[str, str]]:
    """Return the file and the options of an SQLite URL, of which there is one: `synchronous`.

    As in SQLAlchemy three slashes begin a relative path and four an absolute one, and nothing is percent-decoded.
    `sqlite://` and `sqlite:///:memory:` mean a database in memory, given back as `:memory:`.

    >>> parse_sqlite_url("sqlite:////var/lib/shop/orders.db?synchronous=normal")
    ('/var/lib/shop/orders.db', {'synchronous': 'NORMAL'})
    >>> parse_sqlite_url("sqlite:///orders.db")
    ('orders.db', {})
    """
    address, _, query = url.partition("?")
    prefix = "sqlite://"
    if not address.startswith(prefix):
        raise UsageError(
            f"SQLite URL {masked(url)!r}: expected sqlite:///relative/path.db or sqlite:////absolute/path.db"
        )
    rest = address[len(prefix) :]
    if rest and not rest.startswith("/"):
        raise UsageError(f"SQLite URL {masked(url)!r} names a host: write three slashes, {masked(prefix + '/' + rest)}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name != "synchronous":
            raise UsageError(f"SQLite URL {masked(url)!r}: unknown option {name!r}, expected synchronous")
    if "synchronous" in options:
        options["synchronous"] = _synchronous(options["synchronous"])
    return rest[1:] or ":memory:", options


def connect(path: str | Path, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """Open a database file, made with its directory when missing, in WAL mode.

    The connection begins no transaction by itself (say BEGIN IMMEDIATE), may be used from any one thread at a time,
    enforces foreign keys, and raises SQLITE_BUSY at once instead of waiting for a lock.
    synchronous: FULL: a commit survives a power cut. NORMAL: it survives the kill of any process; a power cut may
    take the last commits away, never tear one.
    Opening may block for up to 5 s while another process recovers the file. Raises UsageError (SQLite too old, no
    permission, no database file) or StoreUnavailable.
    """
    if sqlite3.sqlite_version_info < SQLITE_MINIMUM:
        expected = ".".join(map(str, SQLITE_MINIMUM))
        raise UsageError(
            f"this Python's SQLite is {sqlite3.sqlite_version}, expected at least {expected}: use a newer Python",
            expected=expected,
            found=sqlite3.sqlite_version,
        )
    level = _synchronous(synchronous)
    try:
        if str(path) != ":memory:":
            _make(Path(path))
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=512
        )
    except (OSError, sqlite3.Error) as error:
        raise translated(error, path) from error
    try:
        _prepare(connection, level)
    except sqlite3.Error as error:
        connection.close()
        raise translated(error, path) from error
    return connection


def _make(path: Path) -> None:
    """Make file and directory where they are missing, for their owner alone, whatever the umask: events are in there.

    What SQLite keeps beside the file gets the same rights. What is there already stays as it is.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _prepare(connection: sqlite3.Connection, level: str) -> None:
    """Set what holds for the life of the connection."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # Two processes that both turn a new file to WAL: SQLite does not call the busy handler here.
            if not is_busy(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(PAUSE_MAX_S)
    connection.execute(f"PRAGMA synchronous = {level}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA busy_timeout = 0")


def file_of(connection: sqlite3.Connection) -> str:
    """Return the path of the connection's main database file, `:memory:` when it has none."""
    return next((row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main"), "") or ":memory:"


def is_busy(error: sqlite3.Error) -> bool:
    """True when another connection holds the lock that the statement needed."""
    return _primary_code(error) in _BUSY


async def begin_immediate(
    connection: sqlite3.Connection,
    *,
    unavailable: type[RetryableError] = StoreUnavailable,
    timeout_s: float = BUSY_TIMEOUT_S,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Begin a write transaction; wait for another process's to end without blocking the event loop.

    Cancelled while it waits, it has begun nothing. Raises `unavailable` after timeout_s.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        if not is_busy(error):
            raise translated(error, file_of(connection), unavailable) from error
        await retry_while_busy(
            lambda: connection.execute("BEGIN IMMEDIATE"),
            file_of(connection),
            unavailable=unavailable,
            timeout_s=timeout_s,
            sleep=sleep,
            monotonic=monotonic,
        )


async def retry_while_busy(
    work: Callable[[], T],
    path: str | Path,
    *,
    unavailable: type[RetryableError] = StoreUnavailable,
    timeout_s: float = BUSY_TIMEOUT_S,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> T:
    """Pause, call `work` and return what it returns; again while it meets a lock, after a longer pause each time.

    For statements outside a write transaction: even a read is refused for a moment while another process recovers
    the file after a crash or closes it as the last one. Raises `unavailable` after timeout_s.
    """
    give_up_at = monotonic() + timeout_s
    pause = FIRST_PAUSE_S
    while True:
        await sleep(pause)
        try:
            return work()
        except sqlite3.Error as error:
            if not is_busy(error) or monotonic() >= give_up_at:
                raise translated(error, path, unavailable) from error
        pause = min(pause * 2, PAUSE_MAX_S)


def translated(
    error: BaseException, path: str | Path, unavailable: type[RetryableError] = StoreUnavailable
) -> EnsueError:
    """Return our error for one of sqlite3's or the file system's: who acts, on which file, and what to do."""
    if isinstance(error, EnsueError):
        return error
    code = _primary_code(error)
    if code in _BUSY:
        return unavailable(
            f"{path} stayed locked by another process. Find who holds a transaction open (fuser {path}); "
            "it is tried again",
            path=str(path),
        )
    if code == sqlite3.SQLITE_FULL:
        return unavailable(f"{path}: the disk is full. Make room; it is tried again", path=str(path))
    if code in _DAMAGED:
        return UsageError(
            f"{path} is damaged or no SQLite database ({error}). Restore it from a backup, or move it away "
            "together with its -wal and -shm files",
            path=str(path),
        )
    if code in _FORBIDDEN or isinstance(error, PermissionError):
        return UsageError(
            f"{path} cannot be opened or written ({error}). Check the path, the owner and the rights of the file "
            "and of its directory (SQLite makes files beside it)",
            path=str(path),
        )
    if isinstance(error, OSError):
        return UsageError(f"the directory of {path} cannot be made: {error}", path=str(path))
    if isinstance(error, sqlite3.OperationalError):
        name = getattr(error, "sqlite_errorname", "")
        return unavailable(f"{path}: {error} ({name}); it is tried again", path=str(path))
    return UsageError(f"{path}: {type(error).__name__}: {error}", path=str(path))


def _primary_code(error: BaseException) -> int:
    """SQLite's primary result code: the low byte of the extended one; 0 for an error that is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0


def _synchronous(text: str) -> str:
    level = text.upper()
    if level not in SYNCHRONOUS:
        raise UsageError(f"synchronous is {text!r}, expected one of {', '.join(SYNCHRONOUS)}")
    return level
