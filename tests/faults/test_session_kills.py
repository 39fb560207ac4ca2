"""A process that publishes in sessions of its own is killed: each row has its event, and each event its row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.sessions.desk import desk_at, engine_at, plain_url, published, texts, tickets

ROOT = Path(__file__).parents[2]
#: Killed after so many commits, at whatever it does then.
COMMITS = (3, 10, 23)


@contextmanager
def child(url: str, place: str) -> Iterator[subprocess.Popen[str]]:
    """Killed at the end of the block."""
    command = [sys.executable, "-m", "tests.faults.session_child", url, place]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def rows_and_events(url: str) -> tuple[list[int], list[int]]:
    engine = engine_at(plain_url(url))
    try:
        rows = tickets(engine)
    finally:
        engine.dispose()
    return rows, sorted(map(int, texts(published(desk_at(url)))))


@pytest.mark.slow
@pytest.mark.parametrize(("place", "left"), [("flushed", [1]), ("written", [1]), ("committed", [1, 2])])
def test_killed_at_a_place_of_the_commit(sql_database: str, place: str, left: list[int]) -> None:
    desk_at(sql_database)
    with child(sql_database, place) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{place}\n"
    assert rows_and_events(sql_database) == (left, left)


@pytest.mark.slow
def test_killed_at_any_time(sql_database: str) -> None:
    desk_at(sql_database)
    told: list[int] = []
    for commits in COMMITS:
        with child(sql_database, "never") as process:
            assert process.stdout is not None
            told += [int(process.stdout.readline()) for _ in range(commits)]
        rows, events = rows_and_events(sql_database)
        assert rows == events == list(range(1, len(rows) + 1))
        assert set(told) <= set(rows)
