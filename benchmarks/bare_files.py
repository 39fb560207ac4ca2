"""The bare side's files: a log and a service's database, with the columns that Ensue's have and nothing around them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import workload
from benchmarks.workload import IN, OUT, TransferMade

_LOG = (
    "CREATE TABLE partitions (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, last_offset INTEGER NOT NULL)",
    """CREATE TABLE log (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, source TEXT NOT NULL, position INTEGER NOT NULL,
        previous INTEGER NOT NULL, appended_at REAL NOT NULL, envelope BLOB NOT NULL, data BLOB NOT NULL
    )""",
)
_SERVICE = (
    workload.ACCOUNTS_DDL,
    """CREATE TABLE outbox (
        position INTEGER PRIMARY KEY, previous INTEGER NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
        key TEXT NOT NULL, envelope BLOB NOT NULL, data BLOB NOT NULL, written_at REAL NOT NULL
    )""",
    """CREATE TABLE checkpoint (
        topic TEXT PRIMARY KEY, log_offset INTEGER NOT NULL, revision INTEGER NOT NULL, watermark INTEGER NOT NULL
    )""",
    "INSERT INTO checkpoint VALUES ('transfers', 0, 0, 0)",
)
#: Records of the incoming topic have ids from 1, those of the outgoing one from here.
OUT_BASE = 1 << 40

SAVE_CHECKPOINT = (
    "UPDATE checkpoint SET log_offset = ?, watermark = ?, revision = revision + 1 WHERE topic = ? AND revision = ?"
)
INSERT_OUTBOX = "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
READ_OUTBOX = "SELECT position, previous, key, envelope, data FROM outbox WHERE position > ? ORDER BY position LIMIT ?"
READ_LOG = (
    "SELECT id, key, source, position, previous, envelope, data FROM log WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
)
APPEND = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
TAKE_OFFSETS = "UPDATE partitions SET last_offset = last_offset + ? WHERE topic = ?"


class Headers(msgspec.Struct):
    """The envelope: what Ensue's rows hold, so that the bare rows hold the same."""

    id: str
    type: str
    time: str = ""
    correlationid: str = ""
    causationid: str = ""


class BareFiles(NamedTuple):
    """Open connections: the service's database with synchronous FULL, the log with NORMAL, as Ensue's defaults."""

    service: sqlite3.Connection
    log: sqlite3.Connection

    def close(self) -> None:
        self.service.close()
        self.log.close()


def open_files(directory: Path) -> BareFiles:
    return BareFiles(_open(directory / "service.db", "FULL"), _open(directory / "log.db", "NORMAL"))


def make_files(directory: Path, events: Sequence[TransferMade]) -> None:
    """Make both files with all accounts and with `events` in the log."""
    files = open_files(directory)
    for connection, statements in ((files.log, _LOG), (files.service, _SERVICE)):
        for statement in statements:
            connection.execute(statement)
    encode = msgspec.json.Encoder().encode
    files.service.execute("BEGIN")
    files.service.executemany(workload.INSERT_ACCOUNT, workload.account_rows())
    files.service.execute("COMMIT")
    files.log.execute("BEGIN")
    files.log.executemany("INSERT INTO partitions VALUES (?, ?, ?)", [(1, IN, len(events)), (2, OUT, 0)])
    kind, source, time = "transfers.TransferMade.v1", "source/00000000", "2011-12-09T12:50:00.000000Z"
    for number, event in enumerate(events, 1):
        headers = Headers(f"0123456789abcdef-{number:x}", kind, time, f"fedcba9876543210-{number:x}")
        row = (number, event.account_id, source, number, number - 1, 0.0, encode(headers), encode(event))
        files.log.execute(APPEND, row)
    files.log.execute("COMMIT")
    files.close()


def _open(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection
