"""The commit stays on the event loop while the disk is quick and goes to a thread when it is slow."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensue.embedded.connection import connect
from ensue.stores.sqlite.commit import SLOW_S, Committer

LIMIT_S = 20.0


class Disk:
    """A clock by which each commit takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += self.seconds
        return self._now


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = connect(tmp_path / "orders.db")
    opened.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
    yield opened
    opened.close()


async def commit_one(connection: sqlite3.Connection, committer: Committer) -> bool:
    """Commit a row; return whether it was done in a thread."""
    in_thread = committer.in_thread
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO numbers DEFAULT VALUES")
    assert await committer.commit() is None
    assert not connection.in_transaction
    return in_thread


async def test_a_quick_disk_never_needs_a_thread(connection: sqlite3.Connection) -> None:
    committer = Committer(connection, Disk(SLOW_S / 2).monotonic)
    assert not any([await commit_one(connection, committer) for _ in range(10)])
    committer.close()


async def test_one_slow_commit_is_no_slow_disk_and_three_are(connection: sqlite3.Connection) -> None:
    disk = Disk(SLOW_S * 2)
    committer = Committer(connection, disk.monotonic)
    for seconds in (SLOW_S * 2, SLOW_S / 2) * 3:
        disk.seconds = seconds
        assert not await commit_one(connection, committer)
    disk.seconds = SLOW_S * 2
    assert [await commit_one(connection, committer) for _ in range(5)] == [False, False, False, True, True]
    committer.close()


async def test_now_and_then_it_looks_whether_the_disk_is_quick_again(connection: sqlite3.Connection) -> None:
    disk = Disk(SLOW_S * 2)
    committer = Committer(connection, disk.monotonic)
    for _ in range(3):
        await commit_one(connection, committer)
    run = [await commit_one(connection, committer) for _ in range(65)]
    assert run == [True] * 64 + [False]
    assert await commit_one(connection, committer), "one slow look is enough: the disk is still slow"
    for _ in range(63):
        await commit_one(connection, committer)
    disk.seconds = SLOW_S / 2
    assert not any([await commit_one(connection, committer) for _ in range(10)])
    committer.close()


async def test_a_commit_under_way_in_the_thread_is_waited_for_when_cancelled(connection: sqlite3.Connection) -> None:
    committer = Committer(connection, Disk(SLOW_S * 2).monotonic)
    for _ in range(3):
        await commit_one(connection, committer)
    loop = asyncio.get_running_loop()
    inside, go_on = asyncio.Event(), threading.Event()

    def hold_up(statement: str) -> None:
        loop.call_soon_threadsafe(inside.set)
        go_on.wait(LIMIT_S)

    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO numbers DEFAULT VALUES")
    connection.set_trace_callback(hold_up)  # the COMMIT, in its thread
    task = asyncio.create_task(committer.commit())
    async with asyncio.timeout(LIMIT_S):
        await inside.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        assert isinstance(await task, asyncio.CancelledError)
    connection.set_trace_callback(None)
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (4,)
    committer.close()


async def test_a_commit_that_fails_in_the_thread_raises_what_sqlite_says(connection: sqlite3.Connection) -> None:
    committer = Committer(connection, Disk(SLOW_S * 2).monotonic)
    for _ in range(3):
        await commit_one(connection, committer)
    assert committer.in_thread
    with pytest.raises(sqlite3.OperationalError, match="no transaction is active"):
        await committer.commit()
    assert await commit_one(connection, committer)
    committer.close()
