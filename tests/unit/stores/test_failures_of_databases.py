"""What a database says, and who acts: all wait while it is full; what it ends by itself may be the message's doing."""

from __future__ import annotations

import sqlite3

import pytest

from ensue.errors import StoreLost, StoreUnavailable
from ensue.stores.sqlite.failures import failure_of_database


def _sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("it failed")
    error.sqlite_errorcode, error.sqlite_errorname = code, "CODE"
    return error


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, StoreUnavailable),
        (sqlite3.SQLITE_IOERR_WRITE, StoreUnavailable),
        (sqlite3.SQLITE_LOCKED, StoreLost),
        (sqlite3.SQLITE_NOMEM, StoreLost),
        (sqlite3.SQLITE_ERROR, None),
    ],
)
def test_of_sqlite(code: int, expected: type[StoreUnavailable] | None) -> None:
    found = failure_of_database(_sqlite(code), "file.db")
    assert expected is (found and type(found))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("53100", StoreUnavailable),  # disk_full
        ("58030", StoreUnavailable),  # io_error
        ("25006", StoreUnavailable),  # read_only_sql_transaction
        ("53200", StoreLost),  # out_of_memory
        ("57P01", StoreLost),  # admin_shutdown
        ("08006", StoreLost),  # connection_failure
        ("58P01", None),  # undefined_file, of a COPY
        ("57014", None),  # query_canceled
    ],
)
def test_of_postgres(code: str, expected: type[StoreUnavailable] | None) -> None:
    failures = pytest.importorskip("ensue.stores.postgres.failures")
    found = failures.of_code(code, "it failed", "host/database")
    assert expected is (found and type(found))


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (1021, "Disk full (/tmp/#sql); waiting for someone to free some space", StoreUnavailable),
        (1114, "The table 'hay' is full", StoreUnavailable),
        (1026, 'Error writing file "binlog" (errno: 28 "No space left on device")', StoreUnavailable),
        (3, "Error writing file '/tmp/MLfd' (Errcode: 28 \"No space left on device\")", StoreUnavailable),
        (1030, 'Got error 5 "Input/output error" from storage engine InnoDB', StoreUnavailable),
        (1180, 'Got error 28 "No space left on device" during COMMIT', StoreUnavailable),
        (1180, 'Fehler 28 "No space left on device" beim COMMIT', StoreUnavailable),  # lc_messages=de_DE
        (1030, 'Got error 168 "Unknown (generic) error from engine" from storage engine CONNECT', None),
        (1142, "INSERT command denied to user 'a'@'b' for table `c`.`d`", StoreUnavailable),
        (1146, "Table 'c.d' doesn't exist", None),
        (1290, "The server is running with the --read-only option", StoreUnavailable),
        (1038, "Out of sort memory", StoreLost),
        (2013, "Lost connection to server during query", StoreLost),
        (1927, "Connection was killed", StoreLost),
        (1317, "Query execution was interrupted", None),
    ],
)
def test_of_mariadb(code: int, text: str, expected: type[StoreUnavailable] | None) -> None:
    errors = pytest.importorskip("asyncmy.errors")
    failures = pytest.importorskip("ensue.stores.mariadb.failures")
    found = failures.of_error(errors.OperationalError(code, text), "host/database")
    assert expected is (found and type(found))
