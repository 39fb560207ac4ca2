"""The write-ahead log is copied back beside the event loop and stays small."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ensue.embedded import write_ahead
from ensue.embedded.connection import connect
from ensue.embedded.write_ahead import PAGE_BYTES, WriteAheadLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path, synchronous="OFF")) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE t (data BLOB)")
        yield connection


@pytest.fixture
def log(path: Path) -> Iterator[WriteAheadLog]:
    log = WriteAheadLog(str(path), "OFF")
    yield log
    log.close()
    log.close()


def write(connection: sqlite3.Connection, pages: int) -> None:
    connection.execute("INSERT INTO t VALUES (?)", (b"x" * pages * PAGE_BYTES,))


def size(path: Path, suffix: str = "") -> int:
    return os.path.getsize(f"{path}{suffix}") // PAGE_BYTES


def test_copying_is_due_after_so_many_pages(log: WriteAheadLog) -> None:
    assert not log.wrote(900 * PAGE_BYTES)
    assert log.wrote(100 * PAGE_BYTES)
    log.copy()
    assert not log.wrote(900 * PAGE_BYTES)


def test_small_commits_count_as_the_pages_they_touch(log: WriteAheadLog) -> None:
    commits = next(number for number in range(1, 10_000) if log.wrote(100))
    assert commits == write_ahead.COPY_PAGES / 4


def test_what_was_copied_is_in_the_file_and_the_log_begins_again(
    path: Path, writer: sqlite3.Connection, log: WriteAheadLog
) -> None:
    for _ in range(20):
        write(writer, 100)
        log.copy()
    assert size(path) > 2000
    assert size(path, "-wal") < 250


def test_an_open_write_transaction_does_not_hold_the_copying_back(
    path: Path, writer: sqlite3.Connection, log: WriteAheadLog
) -> None:
    write(writer, 100)
    writer.execute("BEGIN IMMEDIATE")
    write(writer, 1)
    log.copy()
    assert size(path) > 100
    writer.execute("COMMIT")


def test_a_long_log_waits_for_the_writer_and_is_copied_to_its_end(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead, "RESTART_PAGES", 100)
    kept_waiting = threading.Event()

    def sleep(seconds: float) -> None:
        kept_waiting.set()
        time.sleep(seconds)

    log = WriteAheadLog(str(path), "OFF", sleep=sleep)
    write(writer, 100)
    with ThreadPoolExecutor(1) as thread:
        writer.execute("BEGIN IMMEDIATE")
        write(writer, 100)
        copying = thread.submit(log.copy)
        assert kept_waiting.wait(10)
        assert size(path) < 150
        writer.execute("COMMIT")
        copying.result(10)
        thread.submit(log.close).result(10)
    assert size(path) >= 200
    length = size(path, "-wal")
    for _ in range(5):
        write(writer, 30)  # from the beginning of the log again
    assert size(path, "-wal") == length


def test_copying_gives_up_on_a_writer_that_never_ends(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead, "RESTART_PAGES", 1)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    log = WriteAheadLog(str(path), "OFF", sleep=sleep, monotonic=lambda: now)
    write(writer, 10)
    writer.execute("BEGIN IMMEDIATE")
    log.copy()
    log.close()
    assert 2.0 < now < 2.1
    writer.execute("ROLLBACK")


def test_a_copy_that_fails_is_told_and_fails_nobody(
    tmp_path: Path, writer: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    write(writer, 1)
    (tmp_path / "letter.db").write_text("no database at all, " * 100)
    log = WriteAheadLog(str(tmp_path / "letter.db"), "OFF")
    log.copy()
    log.close()
    assert "was not copied" in caplog.text
