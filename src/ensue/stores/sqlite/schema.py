"""Ensue's own tables in a service's SQLite file, and the store's identity in them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ensue import tables
from ensue.embedded.connection import translated
from ensue.ports import Table
from ensue.stores.identity import Identity, check_tables, new_epoch_name
from ensue.stores.tables import creating

VERSION = tables.VERSION

_TYPES = {
    "name": "TEXT", "text": "TEXT", "bytes": "BLOB", "int": "INTEGER", "float": "REAL", "begin": "", "end": " STRICT",
}  # fmt: skip
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
    *(statement for table in tables.TABLES for statement in creating(table, _TYPES)),
)


def exists(connection: sqlite3.Connection) -> bool:
    return has(connection, "ensue_meta")


def has(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone() is not None


def make(connection: sqlite3.Connection, own: Sequence[Table]) -> None:
    """Make those of Ensue's own tables that are not there, inside the caller's transaction."""
    for table in own:
        if not has(connection, table.name):
            for statement in creating(table, _TYPES):
                connection.execute(statement)


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
    return (f"INSERT INTO ensue_meta VALUES (1, {VERSION}, '{name}', {epoch}, 0)",)


def create(connection: sqlite3.Connection, service: str) -> None:
    """Create the tables, inside the caller's transaction."""
    for statement in (*statements(), *first_rows(service, f"'{new_epoch_name()}'")):
        connection.execute(statement)


def create_missing(connection: sqlite3.Connection, service: str) -> None:
    if not exists(connection):  # else another process was quicker
        create(connection, service)


def check(connection: sqlite3.Connection, service: str, path: str) -> None:
    """Raise StoreOutdated for tables of another version, UsageError for another service's store."""
    found, owner = connection.execute("SELECT schema_version, service FROM ensue_meta").fetchone()
    check_tables(path, found, owner, service, "another file")


def identity(connection: sqlite3.Connection) -> Identity:
    return Identity._make(connection.execute("SELECT service, epoch, published_from FROM ensue_meta").fetchone())
