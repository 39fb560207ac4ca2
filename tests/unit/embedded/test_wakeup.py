"""Wake-up between tasks and processes: nobody sleeps through a change, nobody is woken for nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ensue.embedded.wakeup import Wakeup, _directory_of

LIMIT_S = 10.0
LONG_S = 60.0


@asynccontextmanager
async def opened(path: Path | None) -> AsyncIterator[Wakeup]:
    wakeup = Wakeup(path)
    await wakeup.open()
    try:
        yield wakeup
    finally:
        await wakeup.close()


async def waiting(wakeup: Wakeup, key: int) -> asyncio.Task[int]:
    """A task that already waits for `key`."""
    task = asyncio.create_task(wakeup.wait(key, wakeup.sequence(key), LONG_S))
    await asyncio.sleep(0)
    return task


def sockets(path: Path) -> int:
    """How many listeners have their socket in the directory of `path`; -1 without a directory."""
    directory = Path(_directory_of(path))
    return len(list(directory.iterdir())) if directory.exists() else -1


def mode(path: Path) -> int:
    return Path(_directory_of(path)).stat().st_mode & 0o777


async def in_time(task: asyncio.Task[int]) -> int:
    async with asyncio.timeout(LIMIT_S):
        return await task


@pytest.mark.parametrize("shared", [False, True])
async def test_a_notification_wakes_who_waits_for_its_key_and_nobody_else(tmp_path: Path, shared: bool) -> None:
    async with opened(tmp_path / "a.db" if shared else None) as wakeup:
        one, same, other = [await waiting(wakeup, key) for key in (1, 1, 2)]
        wakeup.notify([1, 7])
        assert await in_time(one) == await in_time(same) == wakeup.sequence(1)
        assert not other.done()
        wakeup.notify([2])
        await in_time(other)


async def test_a_notification_between_looking_and_waiting_is_not_lost() -> None:
    async with opened(None) as wakeup:
        seen = wakeup.sequence(1)
        wakeup.notify([1])
        async with asyncio.timeout(LIMIT_S):
            assert await wakeup.wait(1, seen, LONG_S) != seen


async def test_a_wait_ends_after_its_time_with_the_same_sequence() -> None:
    async with opened(None) as wakeup:
        seen = wakeup.sequence(1)
        assert await wakeup.wait(1, seen, 0.001) == seen
        assert await wakeup.wait(1, seen, 0.0) == seen


async def test_closing_wakes_everybody_and_may_be_repeated(tmp_path: Path) -> None:
    wakeup = Wakeup(tmp_path / "a.db")
    await wakeup.open()
    tasks = [await waiting(wakeup, key) for key in (1, 2, 3)]
    await wakeup.close()
    for task in tasks:
        await in_time(task)
    async with asyncio.timeout(LIMIT_S):
        await wakeup.wait(1, wakeup.sequence(1), LONG_S)
    await wakeup.close()


async def test_a_cancelled_wait_leaves_the_others_waiting() -> None:
    async with opened(None) as wakeup:
        one, other = await waiting(wakeup, 1), await waiting(wakeup, 1)
        one.cancel()
        await asyncio.wait((one,))
        wakeup.notify([1])
        await in_time(other)


async def test_listeners_of_one_file_wake_each_other_and_those_of_another_file_do_not(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    async with (
        opened(tmp_path / "a.db") as sender,
        opened(tmp_path / "link.db") as same_file,
        opened(tmp_path / "b.db") as other_file,
    ):
        woken, asleep = await waiting(same_file, 1), await waiting(other_file, 1)
        sender.notify([1])
        await in_time(woken)
        assert not asleep.done()
        later = Wakeup(tmp_path / "a.db")
        await later.open()  # a listener that comes later is found, also right after the last look
        woken = await waiting(later, 1)
        sender.notify([1])
        await in_time(woken)
        await later.close()
        sender.notify([1])
        other_file.notify([1])
        await in_time(asleep)


async def test_more_keys_than_a_datagram_holds_wake_everybody(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as sender, opened(tmp_path / "a.db") as listener:
        tasks = [await waiting(listener, key) for key in (1, 500, 999_999)]
        sender.notify(range(1000))
        for task in tasks:
            await in_time(task)


async def test_a_full_queue_loses_no_wake_up(tmp_path: Path) -> None:
    """The kernel keeps some ten datagrams for a listener that is busy; the others are dropped."""
    async with opened(tmp_path / "a.db") as sender, opened(tmp_path / "a.db") as listener:
        tasks = [await waiting(listener, key) for key in range(1000)]
        for key in range(1000):
            sender.notify([key])
        for task in tasks:
            await in_time(task)


async def test_a_listener_that_reads_no_more_does_not_keep_the_others_asleep(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as sender, opened(tmp_path / "a.db") as listener:
        stopped = Wakeup(tmp_path / "a.db")
        await stopped.open()
        assert stopped._listener is not None
        asyncio.get_running_loop().remove_reader(stopped._listener.fileno())  # as a process under SIGSTOP
        for _ in range(2000):
            sender.notify([1])
        for _ in range(3):
            task = await waiting(listener, 2)
            sender.notify([2])
            await in_time(task)
        await stopped.close()


async def test_the_last_one_to_close_leaves_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path):
        async with opened(path):
            assert sockets(path) == 2
            assert mode(path) == 0o700
        assert sockets(path) == 1
    assert sockets(path) == -1


async def test_listeners_may_come_and_go_at_once(tmp_path: Path) -> None:
    async def come_and_go() -> None:
        for _ in range(20):
            async with opened(tmp_path / "a.db") as wakeup:
                wakeup.notify([1])
                await asyncio.sleep(0)

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(come_and_go())
    assert sockets(tmp_path / "a.db") == -1


@pytest.fixture(params=["a file in its place", "open to others"])
def spoiled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A path whose directory is there already, and not to be trusted."""
    path = tmp_path / "a.db"
    directory = Path(_directory_of(path))
    if request.param == "open to others":
        directory.mkdir()
        directory.chmod(0o755)
        yield path
        directory.rmdir()
    else:
        directory.touch()
        yield path
        directory.unlink()


async def test_without_a_directory_of_our_own_waits_become_short_looks(
    spoiled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(spoiled) as wakeup:
        assert "no wake-up between processes" in caplog.text
        async with asyncio.timeout(LIMIT_S):
            await wakeup.wait(1, wakeup.sequence(1), LONG_S)
        task = await waiting(wakeup, 1)
        wakeup.notify([1])
        await in_time(task)


async def test_a_long_temporary_directory_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    async with opened(tmp_path / "a.db") as sender, opened(tmp_path / "a.db") as listener:
        task = await waiting(listener, 1)
        sender.notify([1])
        await in_time(task)


# --- real processes

_ECHO = """
import asyncio, sys
from ensue.embedded.wakeup import Wakeup

async def echo() -> None:
    wakeup = Wakeup(sys.argv[1])
    await wakeup.open()
    seen = wakeup.sequence(1)
    print("ready", flush=True)
    while True:
        seen = await wakeup.wait(1, seen, 60)
        wakeup.notify([2])

asyncio.run(echo())
"""


@asynccontextmanager
async def echo_process(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that answers each notification of key 1 with one of key 2."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _ECHO,
        str(path),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_processes_wake_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as wakeup, echo_process(path):
        for _ in range(100):
            task = await waiting(wakeup, 2)
            wakeup.notify([1])
            await in_time(task)


async def test_a_stopped_process_holds_nobody_back_and_a_killed_one_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with AsyncExitStack() as stack:
        wakeup = await stack.enter_async_context(opened(path))
        stopped = await stack.enter_async_context(echo_process(path))
        await stack.enter_async_context(echo_process(path))
        stopped.send_signal(signal.SIGSTOP)
        for _ in range(1000):
            wakeup.notify([3])
        for _ in range(10):
            task = await waiting(wakeup, 2)
            wakeup.notify([1])
            await in_time(task)
        assert sockets(path) == 3
        stopped.kill()
        await stopped.wait()
        wakeup.notify([3])
        assert sockets(path) == 2
