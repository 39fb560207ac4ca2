"""SQLite connections: how they are opened, and what happens when a lock, a disk or a file is in the way."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ensue import Service
from ensue.embedded.connection import (
    PAUSE_MAX_S,
    begin_immediate,
    connect,
    file_of,
    parse_sqlite_url,
    retry_while_busy,
    translated,
)
from ensue.errors import BrokerUnavailable, EnsueError, StoreUnavailable, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "on demand" / "a.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as opened:
        opened.execute("CREATE TABLE t (n INTEGER)")
        yield opened


@pytest.fixture
def other(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///orders.db", ("orders.db", {})),
        ("sqlite:///./data/orders.db", ("./data/orders.db", {})),
        ("sqlite:////var/lib/orders.db", ("/var/lib/orders.db", {})),
        ("sqlite:////a%20b/ü.db?synchronous=full", ("/a%20b/ü.db", {"synchronous": "FULL"})),
        ("sqlite://", (":memory:", {})),
        ("sqlite:///:memory:", (":memory:", {})),
    ],
)
def test_an_sqlite_url_names_a_file_and_options(url: str, expected: tuple[str, dict[str, str]]) -> None:
    assert parse_sqlite_url(url) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://var/lib/orders.db", "three slashes"),
        ("sqlite:///a.db?sync=FULL", "unknown option 'sync', expected synchronous"),
        ("sqlite:///a.db?synchronous=SOMETIMES", "OFF, NORMAL, FULL, EXTRA"),
        ("postgresql://localhost/a", "expected sqlite:///"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_with_what_to_write(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_sqlite_url(url)


def test_a_connection_is_as_promised(connection: sqlite3.Connection, path: Path) -> None:
    def pragma(name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 1)
    assert pragma("busy_timeout") == 0
    assert connection.isolation_level is None
    assert file_of(connection) == str(path)
    with closing(connect(path, synchronous="normal")) as second:
        assert second.execute("PRAGMA synchronous").fetchone()[0] == 1


def test_a_connection_may_be_in_memory() -> None:
    with closing(connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
        assert file_of(connection) == ":memory:"


def test_an_old_sqlite_is_refused_by_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(UsageError, match=r"expected at least 3\.37\.0"):
        connect(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_text("Dear database, " * 100)
    with pytest.raises(UsageError, match="no SQLite database"):
        connect(path)


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        connect(tmp_path / "file" / "a.db")
    with pytest.raises(UsageError, match="cannot be opened"):
        connect(tmp_path)


async def test_a_writer_waits_for_the_other_without_holding_up_the_event_loop(
    connection: sqlite3.Connection, other: sqlite3.Connection
) -> None:
    await begin_immediate(connection)
    second = asyncio.create_task(begin_immediate(other))
    for _ in range(10):  # the loop goes on meanwhile
        await asyncio.sleep(0.001)
    assert not second.done()
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("COMMIT")
    async with asyncio.timeout(10):
        await second
    assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
    other.execute("ROLLBACK")


async def test_a_lock_that_stays_is_reported_with_the_file_after_the_timeout(
    connection: sqlite3.Connection, other: sqlite3.Connection, path: Path
) -> None:
    now, pauses = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    await begin_immediate(connection)
    with pytest.raises(BrokerUnavailable, match="locked") as caught:
        await begin_immediate(other, unavailable=BrokerUnavailable, timeout_s=5.0, sleep=sleep, monotonic=lambda: now)
    assert caught.value.values == {"path": str(path)}
    assert str(path) in str(caught.value)
    assert 5.0 <= now < 5.1
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.0002, PAUSE_MAX_S)
    connection.execute("ROLLBACK")


async def test_a_cancelled_begin_has_begun_nothing(connection: sqlite3.Connection, other: sqlite3.Connection) -> None:
    await begin_immediate(connection)
    waiting = asyncio.create_task(begin_immediate(other))
    await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()
    connection.execute("COMMIT")
    assert not other.in_transaction
    await begin_immediate(connection)
    connection.execute("ROLLBACK")


async def test_work_that_meets_a_lock_is_done_again_and_its_result_given_back() -> None:
    attempts = 0

    def work() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise _error(sqlite3.SQLITE_BUSY)
        return "done"

    assert await retry_while_busy(work, "a.db") == "done"
    assert attempts == 3


async def test_an_error_that_is_no_lock_is_not_tried_again() -> None:
    attempts = 0

    def work() -> None:
        nonlocal attempts
        attempts += 1
        raise _error(sqlite3.SQLITE_FULL)

    with pytest.raises(StoreUnavailable, match="disk is full"):
        await retry_while_busy(work, "a.db")
    assert attempts == 1


@pytest.mark.parametrize(
    ("code", "expected", "says"),
    [
        (sqlite3.SQLITE_BUSY, BrokerUnavailable, "locked"),
        (sqlite3.SQLITE_BUSY_RECOVERY, BrokerUnavailable, "locked"),
        (sqlite3.SQLITE_FULL, BrokerUnavailable, "Make room"),
        (sqlite3.SQLITE_IOERR_FSYNC, BrokerUnavailable, "tried again"),
        (sqlite3.SQLITE_CORRUPT, UsageError, "Restore it"),
        (sqlite3.SQLITE_READONLY, UsageError, "rights"),
        (sqlite3.SQLITE_CANTOPEN, UsageError, "rights"),
    ],
)
def test_errors_say_who_acts_and_on_which_file(code: int, expected: type[EnsueError], says: str) -> None:
    error = translated(_error(code), "/data/a.db", BrokerUnavailable)
    assert type(error) is expected
    assert says in str(error)
    assert "/data/a.db" in str(error)
    assert translated(error, "/data/other.db") is error


def _error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_SOMETHING"
    return error


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


async def test_what_is_made_is_for_its_owner_alone_whatever_the_umask(umask: None, tmp_path: Path) -> None:
    home = tmp_path / ".ensue"
    service = Service("orders", database=f"sqlite:///{home}/orders.db", broker=f"sqlite:///{home}/broker.db")
    async with service.running(), service.step():
        made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [home, *home.iterdir()]}
    assert made.pop(".ensue") == 0o700
    assert {"orders.db", "orders.db-wal", "orders.db-shm", "broker.db", "broker.db-wal"} <= made.keys()
    assert set(made.values()) == {0o600}


def test_what_is_there_keeps_the_rights_that_somebody_gave_it(tmp_path: Path) -> None:
    home = tmp_path / "shared"
    home.mkdir(mode=0o755)
    path = home / "a.db"
    path.touch()
    path.chmod(0o660)
    with closing(connect(path)) as opened:
        opened.execute("CREATE TABLE t (n INTEGER)")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (home, path)] == [0o755, 0o660]
