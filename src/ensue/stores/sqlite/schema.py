"""Ensue's own tables in a service's SQLite file, and the store's identity in them."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ensue.embedded.connection import translated
from ensue.errors import StoreOutdated, UsageError

VERSION = 1

_TABLES = (
    # Who this store is. published_from: records at or below it belong to an earlier epoch and are never sent again.
    """CREATE TABLE ensue_meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        schema_version INTEGER NOT NULL,
        service TEXT NOT NULL,
        epoch TEXT NOT NULL,
        published_from INTEGER NOT NULL
    ) STRICT""",
    # What was published. No index but the position: each one would cost every event, and resends are rare.
    """CREATE TABLE ensue_outbox (
        position INTEGER PRIMARY KEY,
        previous INTEGER NOT NULL,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        key TEXT NOT NULL,
        envelope BLOB NOT NULL,
        data BLOB NOT NULL,
        written_at REAL NOT NULL
    ) STRICT""",
    # The last position of each partition: what the next record's `previous` will be. Survives pruning.
    """CREATE TABLE ensue_outbox_head (
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE ensue_relay (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        position INTEGER NOT NULL
    ) STRICT""",
    # counters and gaps are JSON: few, and always read and written together with their checkpoint.
    """CREATE TABLE ensue_checkpoint (
        subscription TEXT NOT NULL,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        "offset" INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        counters TEXT NOT NULL,
        gaps TEXT NOT NULL,
        PRIMARY KEY (subscription, topic, partition)
    ) STRICT, WITHOUT ROWID""",
    # A table of its own, because a batch writes the watermarks of the sources it saw and no others.
    """CREATE TABLE ensue_watermark (
        subscription TEXT NOT NULL,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        source TEXT NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (subscription, topic, partition, source)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE ensue_dead_letter (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        subscription TEXT NOT NULL,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        "offset" INTEGER NOT NULL,
        source TEXT NOT NULL,
        position INTEGER NOT NULL,
        previous INTEGER NOT NULL,
        key TEXT NOT NULL,
        envelope BLOB NOT NULL,
        data BLOB NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        due_at REAL NOT NULL,
        error_type TEXT NOT NULL,
        error TEXT NOT NULL,
        parked_at REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX ensue_dead_letter_place ON ensue_dead_letter (subscription, topic, partition, id)",
    """CREATE TABLE ensue_inbox (
        number INTEGER PRIMARY KEY,
        subscription TEXT NOT NULL,
        source TEXT NOT NULL,
        id TEXT NOT NULL,
        claimed_at REAL NOT NULL,
        UNIQUE (subscription, source, id)
    ) STRICT""",
    """CREATE TABLE ensue_response (
        number INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        fingerprint TEXT NOT NULL,
        status INTEGER NOT NULL,
        headers TEXT NOT NULL,
        body BLOB NOT NULL,
        saved_at REAL NOT NULL
    ) STRICT""",
    """CREATE TABLE ensue_worker (
        name TEXT PRIMARY KEY,
        expires_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE ensue_lease (
        name TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        expires_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
)


class Identity(NamedTuple):
    """Whose store it is, and since which position its present history counts."""

    service: str
    epoch: str
    published_from: int

    @property
    def source(self) -> str:
        return f"{self.service}/{self.epoch}"


def new_epoch_name() -> str:
    """Eight random hexadecimal digits: a copy of a file that begins anew must not share its name with the original."""
    return secrets.token_hex(4)


def exists(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ensue_meta'").fetchone() is not None


def exists_in_file(path: str) -> bool:
    """As `exists`, of a file that may not be there; makes none."""
    if not os.path.exists(path):
        return False
    try:
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as connection:
            return exists(connection)
    except sqlite3.Error as error:
        raise translated(error, path) from error


#: A new epoch's name, made by the database itself: as `new_epoch_name`.
EPOCH = "lower(hex(randomblob(4)))"


def statements() -> Sequence[str]:
    """What creates Ensue's tables, without the first rows."""
    return _TABLES


def first_rows(service: str, epoch: str) -> Sequence[str]:
    """What fills new tables. epoch: an SQL expression."""
    name = service.replace("'", "''")
    return (
        "INSERT INTO ensue_relay VALUES (1, 0)",
        f"INSERT INTO ensue_meta VALUES (1, {VERSION}, '{name}', {epoch}, 0)",
    )


def create(connection: sqlite3.Connection, service: str) -> None:
    """Create the tables, inside the caller's transaction."""
    for statement in (*statements(), *first_rows(service, f"'{new_epoch_name()}'")):
        connection.execute(statement)


def check(connection: sqlite3.Connection, service: str, path: str) -> None:
    """Raise StoreOutdated for tables of another version, UsageError for another service's store."""
    found, owner = connection.execute("SELECT schema_version, service FROM ensue_meta").fetchone()
    if found != VERSION:
        raise StoreOutdated(
            f"{path}: Ensue's tables are of version {found}, this version of Ensue works with {VERSION}. "
            + ("Run a newer Ensue" if found > VERSION else "Start anew, or migrate with the Ensue that made them"),
            found=found,
            expected=VERSION,
        )
    if owner != service:
        raise UsageError(
            f"{path} is the database of service {owner!r}, not of {service!r}: each service has a database of its "
            "own. Give another file",
            found=owner,
            expected=service,
        )


def identity(connection: sqlite3.Connection) -> Identity:
    return Identity._make(connection.execute("SELECT service, epoch, published_from FROM ensue_meta").fetchone())
