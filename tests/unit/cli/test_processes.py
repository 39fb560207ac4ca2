"""A parent and its children: who ends by itself is started again, who is told to stop is not."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ensue.cli import processes
from ensue.cli.processes import Supervisor
from ensue.cli.restarts import Restarts
from ensue.cli.serving import Stop

LIMIT_S = 30.0
SOON = Restarts(first_s=0.01, max_s=0.02)
NEVER = Restarts(first_s=3600.0, max_s=3600.0)

Said = Callable[..., Awaitable[None]]


@pytest.fixture
def said() -> Iterator[Said]:
    """Wait until the log has a text for the n-th time; each line of it ends a wait."""
    lines: list[str] = []
    news = asyncio.Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            news.set()

    async def wait(text: str, times: int = 1) -> None:
        async with asyncio.timeout(LIMIT_S):
            while sum(text in line for line in lines) < times:
                news.clear()
                await news.wait()

    listening = Listening()
    log = logging.getLogger("ensue.run")
    before = log.level
    log.addHandler(listening)
    log.setLevel(logging.INFO)
    yield wait
    log.removeHandler(listening)
    log.setLevel(before)


def child(code: str) -> list[str]:
    """A program that is quick to start; in `told` a SIGTERM ends it with a status of its own."""
    return [sys.executable, "-I", "-S", "-c", f"import os, signal, sys, time\n{code}"]


#: Says that it listens, then sleeps until it is told to stop.
def sleeper(flag: Path, status: int = 0) -> list[str]:
    return child(
        f"signal.signal(signal.SIGTERM, lambda *_: os._exit({status}))\n"
        f"open({str(flag)!r}, 'w').write(str(os.getpid()) + chr(10))\n"
        "time.sleep(3600)"
    )


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def pid_in(fifo: Path) -> int:
    """The next child that listens; a fifo, so that opening it waits."""
    return int(await asyncio.to_thread(fifo.read_text))


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "listens"
    os.mkfifo(path)
    return path


def test_pauses_grow_up_to_a_bound_and_a_long_run_begins_anew() -> None:
    rule = Restarts(first_s=1, factor=2, max_s=30, well_s=60)
    failures, pauses = 0, []
    for ran_s in (0, 5, 0, 0, 0, 0, 59.9, 60, 0):
        failures = rule.failures(failures, ran_s)
        pauses.append(rule.pause_s(failures))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 1, 2]
    assert rule.pause_s(10**9) == 30


async def test_a_child_that_crashes_is_started_again_and_again_and_the_log_says_so(said: Said) -> None:
    supervisor = Supervisor([child("sys.exit(3)")], SOON)
    async with running(supervisor) as task:
        await said("ended with status 3; another one starts in 0.01 s (failure 1 in a row)")
        await said("ended with status 3; another one starts in 0.02 s (failure 12 in a row)")
        await said("process 1 (pid ", 12)
        supervisor.stop()
        assert await task == 0  # what ended by itself is no failure of the stop


async def test_a_child_that_ends_well_without_being_told_to_is_started_again_too(said: Said) -> None:
    supervisor = Supervisor([child("sys.exit(0)")], SOON)
    async with running(supervisor) as task:
        await said("ended with status 0; another one starts", 3)
        supervisor.stop()
        assert await task == 0


async def test_a_child_that_cannot_be_started_is_tried_again(said: Said) -> None:
    supervisor = Supervisor([["/no/such/program"]], SOON)
    async with running(supervisor) as task:
        await said("process 1 ended with No such file or directory: it could not start; another one starts", 3)
        supervisor.stop()
        assert await task == 0


async def test_one_that_is_killed_comes_again_while_the_others_go_on(said: Said, tmp_path: Path) -> None:
    fifos = [tmp_path / "1", tmp_path / "2"]
    for each in fifos:
        os.mkfifo(each)
    supervisor = Supervisor([sleeper(each) for each in fifos], SOON)
    async with running(supervisor) as task:
        first, second = [await pid_in(each) for each in fifos]
        os.kill(first, signal.SIGKILL)
        await said(f"process 1 (pid {first}) ended with signal 9; another one starts in 0.01 s (failure 1 in a row)")
        assert await pid_in(fifos[0]) != first
        os.kill(second, 0)  # still there
        supervisor.stop()
        assert await task == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_all_in_good_order(number: signal.Signals, fifo: Path) -> None:
    async with running(Supervisor([sleeper(fifo)], SOON)) as task:
        pid = await pid_in(fifo)
        os.kill(os.getpid(), number)
        assert await task == 0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_stop_ends_a_pause_at_once(said: Said) -> None:
    supervisor = Supervisor([child("sys.exit(1)")], NEVER)
    async with running(supervisor) as task:
        await said("another one starts in 3600 s")
        supervisor.stop()
        assert await task == 0


async def test_what_a_child_ends_with_when_it_is_told_to_stop_is_the_exit_status(fifo: Path, said: Said) -> None:
    supervisor = Supervisor([sleeper(fifo, status=5)], SOON)
    async with running(supervisor) as task:
        pid = await pid_in(fifo)
        supervisor.stop()
        assert await task == 5
        await said(f"process 1 (pid {pid}) ended with status 5 when it was told to stop")


def deaf(fifo: Path) -> list[str]:
    return child(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(fifo)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(3600)"
    )


async def test_a_child_that_does_not_stop_is_killed(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PATIENCE_S", 0.1)
    supervisor = Supervisor([deaf(fifo)], SOON)
    async with running(supervisor) as task:
        await pid_in(fifo)
        supervisor.stop()
        assert await task == 128 + signal.SIGKILL


async def test_a_second_stop_kills_at_once(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PATIENCE_S", 3600.0)
    supervisor = Supervisor([deaf(fifo)], SOON)
    async with running(supervisor) as task:
        await pid_in(fifo)
        supervisor.stop()
        supervisor.stop()
        assert await task == 128 + signal.SIGKILL


async def test_a_reload_ends_each_child_in_good_order_and_starts_another_at_once(fifo: Path) -> None:
    supervisor = Supervisor([sleeper(fifo)], NEVER)
    async with running(supervisor) as task:
        first = await pid_in(fifo)
        supervisor.reload()
        second = await pid_in(fifo)
        assert second != first
        supervisor.stop()
        assert await task == 0


async def test_a_reload_kills_a_child_that_does_not_stop(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PATIENCE_S", 0.1)
    supervisor = Supervisor([deaf(fifo)], NEVER)
    async with running(supervisor):
        first = await pid_in(fifo)
        supervisor.reload()
        assert await pid_in(fifo) != first


async def test_a_patient_parent_waits_for_the_code_to_change(said: Said) -> None:
    supervisor = Supervisor([child("sys.exit(1)")], SOON, patient=True)
    async with running(supervisor) as task:
        await said("ended with status 1; another one starts when the code changes")
        supervisor.reload()
        await said("ended with status 1; another one starts when the code changes", 2)
        supervisor.stop()
        assert await task == 0


def test_a_child_that_is_told_twice_to_stop_still_ends_in_good_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by systemd, which tells all processes of a unit, and then by the parent; or by two changes of the code."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    for followed in (True, False):
        with Stop(followed=followed) as stop:
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
            assert stop.wanted
    assert ended == [128 + signal.SIGTERM]
