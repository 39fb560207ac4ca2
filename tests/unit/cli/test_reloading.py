"""`ensue run --reload`: the code changes, and all processes start anew; broken code is waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.cli.harness import ROOT, TILL, Ended, Running

from ensue.cli.reloading import watched, watching
from ensue.errors import UsageError

SERVICE = """
from ensue import Service
from ensue.texts import logger

service = Service("changing", publishes=[])
print("{version}", flush=True)
"""


async def test_a_change_of_a_python_file_is_told_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "ensue.run")
    monkeypatch.chdir(tmp_path)
    told = asyncio.Event()
    (tmp_path / "package").mkdir()
    (tmp_path / ".venv").mkdir()
    new = tmp_path / "package/new.py"
    async with asyncio.timeout(30), watching([tmp_path], told.set):
        for name in ("notes.txt", ".venv/some.py", "orders.db", "a.pyc"):
            (tmp_path / name).write_text("x")
        new.write_text("x = 1")  # at once: what is written in the block is seen
        await told.wait()
        told.clear()
        new.unlink()
        await told.wait()
    assert {each.getMessage() for each in caplog.records} == {"package/new.py changed: starting anew"}


async def test_what_cannot_be_watched_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--reload: .*gone cannot be watched: "):
        async with watching([tmp_path / "gone"], lambda: None):
            raise AssertionError("it watches")


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--reload-dir nowhere is no directory in "):
        watched([Path("nowhere")])
    assert watched([]) == [Path.cwd()]
    assert watched([tmp_path]) == [tmp_path]


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(UsageError, match=r'ensue run --reload needs .*: pip install "ensue\[reload\]"'):
        watched([])


def test_a_directory_without_reload_is_refused(ensue: Callable[..., Ended]) -> None:
    ended = ensue("run", TILL, "--reload-dir", ".")
    assert (ended.code, ended.out) == (1, "")
    assert "--reload-dir says where --reload looks: give that too" in ended.err


@pytest.fixture
def develop(tmp_path: Path, home: Path) -> Iterator[Running]:
    """`ensue run --reload` of a module of its own; what it prints is in the log too."""
    (tmp_path / "changing.py").write_text(SERVICE.format(version="version one"))
    process = subprocess.Popen(
        [sys.executable, "-m", "ensue", "run", "changing:service", "--reload"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    process.stderr = process.stdout  # where `Running` reads
    yield Running(process)
    if process.poll() is None:
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_the_code_changes_and_the_service_starts_anew_in_good_order(develop: Running, tmp_path: Path) -> None:
    code = tmp_path / "changing.py"
    develop.wait_for("changing: ready as ")
    assert develop.seen.count("version one") == 1
    code.write_text(SERVICE.format(version="version two"))
    develop.wait_for("changing.py changed: starting anew")
    develop.wait_for("changing: stopped")  # the batches at hand finish first
    develop.wait_for("version two")
    develop.wait_for("changing: ready as ", times=2)
    # Broken code ends the process, and the parent waits for the next change.
    code.write_text("def broken(:\n")
    develop.wait_for("module changing cannot be imported: SyntaxError")
    develop.wait_for("ended with status 1; another one starts when the code changes")
    code.write_text(SERVICE.format(version="version three"))
    develop.wait_for("version three")
    develop.wait_for("changing: ready as ", times=3)
    develop.process.send_signal(signal.SIGINT)
    for _ in develop.process.stdout or ():
        pass
    assert develop.process.wait(60) == 0
