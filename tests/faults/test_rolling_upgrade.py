"""Real processes of two schemas of Ensue's own tables, deployed one by one as a platform does it, killed on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.faults.ring import SERVICES
from tests.faults.ring_checks import broken_promises, counts
from tests.faults.ring_child import Orders, run, start

LIMIT_S = 60.0

Begin = Callable[..., BaseProcess]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start a process of all services that serves until SIGTERM; what still runs at the end of the test is killed."""
    started: list[BaseProcess] = []

    def begun(**told: int | str) -> BaseProcess:
        started.append(start(Orders(directory=tmp_path, serve=True, **{"total": 0, **told})))  # type: ignore[arg-type]
        return started[-1]

    yield begun
    for process in started:
        process.kill()
        process.join()


def end(process: BaseProcess) -> int | None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(LIMIT_S)
    return process.exitcode


def until(met: Callable[[], bool], why: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < limit, why
        time.sleep(0.02)


def applied(directory: Path) -> int:
    return min(counts(directory).values(), default=0)


@pytest.mark.slow
def test_two_old_processes_are_replaced_by_new_ones_while_events_flow(begin: Begin, tmp_path: Path) -> None:
    assert run(Orders(directory=tmp_path, total=1)) == 0  # makes the tables
    old = [begin(log="first.log", total=3000), begin(log="second.log")]
    until(lambda: applied(tmp_path) > 20, "the old ones work")
    new = [begin(schema=2, log="third.log")]
    log = tmp_path / "third.log"
    until(lambda: log.exists() and log.read_text().count("of schema 2 now") == len(SERVICES), "it upgrades")
    seen = applied(tmp_path)
    until(lambda: applied(tmp_path) > seen + 20, "both work")
    old[1].kill()
    new.append(begin(schema=2, log="fourth.log"))
    seen = applied(tmp_path)
    until(lambda: applied(tmp_path) > seen + 20, "the new ones and an old one work")
    assert end(old[0]) == 0
    assert [end(each) for each in new] == [0, 0]
    placed = counts(tmp_path)["placed"]
    assert run(Orders(directory=tmp_path, total=placed, schema=2)) == 0
    assert set(counts(tmp_path).values()) == {placed}
    assert broken_promises(tmp_path) == []


@pytest.mark.slow
def test_an_old_process_that_may_not_go_on_stops_and_the_new_one_takes_its_work(begin: Begin, tmp_path: Path) -> None:
    assert run(Orders(directory=tmp_path, total=1)) == 0  # makes the tables
    begin(log="old.log", total=20)
    until(lambda: applied(tmp_path) == 20, "the old one works")
    new = begin(schema=3, log="new.log", total=40)
    until(lambda: applied(tmp_path) == 40, "the new one works")
    assert end(new) == 0
    said = (tmp_path / "old.log").read_text()
    for each in SERVICES:
        assert f"service {each}: Ensue's tables in its database are of schema" in said
    assert broken_promises(tmp_path) == []
