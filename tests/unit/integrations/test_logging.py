"""A web process says in its log what a worker says, and where nobody has set logging up one sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI

from ensue import Service
from ensue.announcing import announced
from ensue.cli import serving
from ensue.integrations import installing as integration
from ensue.integrations.fastapi import install
from ensue.view import View

ROOT = Path(__file__).parents[3]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "ensue.run"]


async def test_a_web_process_tells_where_it_works_when_it_is_ready_and_when_it_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ensue.run")
    service = Service("letters", database=f"sqlite:///{tmp_path}/letters.db", broker="memory:letters", publishes=[])
    app = FastAPI()
    install(app, service)
    async with app.router.lifespan_context(app):
        await service.runtime.ready()
        await asyncio.sleep(0)  # who waited for the same has its turn
        ready = said(caplog)
    assert ready[0] == f"letters: database sqlite:///{tmp_path}/letters.db, broker memory:letters"
    assert re.fullmatch(r"letters: ready as \S+; works on relay", ready[1])
    assert said(caplog)[2:] == ["letters: stopping; the batches at hand finish first", "letters: stopped"]


async def test_one_without_workers_says_that_others_have_to_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ensue.run")
    service = Service("letters", database=f"sqlite:///{tmp_path}/letters.db", broker="memory:letters", publishes=[])
    app = FastAPI()
    install(app, service, work=False)
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0)
    assert said(caplog)[1] == "letters: ready for steps and queries; its workers run in other processes"


async def test_the_place_of_a_view_is_shown_and_no_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ensue.run")
    broker = "nats://shop:Rec0gnizable@127.0.0.1:1?timeout_s=1"
    view = View("history", version=2, database=f"sqlite:///{tmp_path}/history.db", broker=broker)
    async with announced(view):
        await asyncio.sleep(0)
    assert said(caplog)[0].startswith(f"history@2: database sqlite:///{tmp_path}/history")
    assert said(caplog)[0].endswith(", broker nats://***@127.0.0.1:1?timeout_s=1")
    assert view.place().url in said(caplog)[0]
    assert "Rec0gnizable" not in caplog.text


def test_a_worker_and_a_web_process_say_it_by_one_function() -> None:
    assert serving.announced is integration.announced is announced  # type: ignore[attr-defined]


PROGRAM = """
import asyncio, logging, sys
from fastapi import FastAPI
from ensue import Service
from ensue.integrations.fastapi import install

service = Service("letters", database="sqlite://", broker="memory:letters", publishes=[])
app = FastAPI()
install(app, service)
{application}

async def main():
    async with app.router.lifespan_context(app):
        await service.runtime.ready()
        await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("application", "out", "err"),
    [
        ("", "", r"\S+ \S+ INFO    \d+ ensue.run: letters: ready as "),
        (
            "logging.basicConfig(stream=sys.stdout, format='app: %(message)s', level='INFO')",
            "app: letters: ready as ",
            "",
        ),
        ("logging.getLogger('ensue').setLevel('WARNING')", "", ""),
        ("logging.getLogger('ensue').addHandler(logging.NullHandler())", "", ""),
    ],
    ids=["nobody has set it up", "the application has", "less of it", "none of it"],
)
def test_the_log_is_shown_where_the_application_has_not_set_it_up(application: str, out: str, err: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(application=application)],
        env=environment | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out in done.stdout) if out else not done.stdout
    assert re.search(err, done.stderr) if err else not done.stderr
    assert (done.stdout + done.stderr).count("ready as") == (1 if out or err else 0)


def test_other_loggers_of_a_web_process_are_left_alone() -> None:
    program = PROGRAM.format(application="") + "print(logging.getLogger().handlers, logging.getLogger().level)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"[] {logging.WARNING}\n"
