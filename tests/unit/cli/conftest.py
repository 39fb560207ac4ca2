"""Services of `services.py` over databases in a directory of the test's own, and the command in and out of process."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.cli.harness import ROOT, Ended, Running
from tests.unit.cli.services import Sold, till

from ensue.cli.main import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("ENSUE_HOME", str(home))
    monkeypatch.setenv("ENSUE_PARTITIONS", "2")
    monkeypatch.chdir(ROOT)
    return home


@pytest.fixture
def ensue(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run one command in this process; answer: what is typed when it asks."""

    def command(*arguments: object, answer: str = "") -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as ending:
            main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return Ended(int(ending.value.code or 0), out, err)

    return command


@pytest.fixture
def run(home: Path) -> Iterator[Callable[..., Running]]:
    """Start `ensue run` as a process; whatever still runs at the end of the test is killed."""
    started: list[Running] = []

    def start(*arguments: object) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "ensue", "run", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        started.append(Running(process))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture
def sell(home: Path) -> Callable[..., None]:
    """Publish in the till's database; nothing is sent by it."""

    def publish(*sold: tuple[str, int]) -> None:
        async def publishing() -> None:
            async with till.running(work=False):
                for customer, amount in sold:
                    async with till.step() as step:
                        step.publish(Sold(customer=customer, amount=amount))

        asyncio.run(publishing())

    return publish
