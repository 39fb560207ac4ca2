"""Kill -9 at every fault point of the engine, in a real process; after the restart every promise holds."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.ring import SERVICES
from tests.faults.ring_checks import broken_promises, counts
from tests.faults.ring_child import Orders, run
from tests.faults.test_command_kills import DEATHS as OF_COMMANDS
from tests.faults.test_outside_kills import DEATHS as OF_OUTSIDE_EFFECTS
from tests.faults.test_recurring_kills import DEATHS as OF_RECURRING_STEPS

from ensue.engine.faults import POINTS

TOTAL = 44

#: point -> where and at which pass to die: `service:n`. A point of the registry that is missing here fails a test.
DEATHS: dict[str, tuple[str, ...]] = {
    "step.begun": ("alpha:1", "alpha:23"),
    "step.handled": ("alpha:2",),
    "step.outbox_written": ("alpha:1", "alpha:23"),
    "step.committed": ("alpha:1", "alpha:44"),
    "relay.read": ("alpha:1", "alpha:3", "beta:2"),
    "relay.appended": ("alpha:1", "alpha:3", "beta:1", "beta:2"),
    "relay.saved": ("alpha:1", "beta:2"),
    "relay.ticked": ("alpha:1", "beta:1"),
    "relay.resend_read": ("alpha:1", "alpha:2"),
    "relay.resent": ("alpha:1", "alpha:2"),
    "consumer.read": ("beta:1", "beta:4", "gamma:3"),
    "consumer.suspected": ("beta:1", "gamma:2", "alpha:1"),
    "consumer.begun": ("beta:2", "gamma:1", "alpha:1"),
    "consumer.handled": ("beta:2", "gamma:2", "alpha:2"),
    "consumer.outbox_written": ("beta:1", "beta:4"),
    "consumer.checkpoint_written": ("beta:1", "beta:4", "gamma:2", "alpha:3"),
    "consumer.committed": ("beta:1", "beta:4", "gamma:2", "alpha:1"),
    "consumer.asked": ("beta:1", "gamma:1"),
    "letter.aside": ("beta:1", "beta:3"),
    "letter.handled": ("beta:1", "beta:2"),
    "letter.committed": ("beta:1", "beta:2"),
    "lease.beaten": ("alpha:1", "beta:2", "gamma:3"),
    "retention.pruned": ("alpha:1", "gamma:2"),
    "timers.read": ("gamma:1", "gamma:4"),
    "timers.moved": ("gamma:1", "gamma:3"),
    "timers.committed": ("gamma:1", "gamma:3"),
    "upgrade.announced": ("alpha:1", "gamma:1"),
    "upgrade.made": ("alpha:1", "alpha:2", "beta:1"),
    "upgrade.done": ("alpha:1", "beta:2", "gamma:1"),
}
#: Points that are only passed when the log has lost something.
_AFTER_LOSS = {"relay.resend_read", "relay.resent", "consumer.asked"}

#: Points that are only passed when a worker has died before.
_AFTER_DEATH = {"consumer.suspected"}


def test_every_fault_point_has_a_death_here() -> None:
    assert {*DEATHS, *OF_RECURRING_STEPS, *OF_COMMANDS, *OF_OUTSIDE_EFFECTS} == set(POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("where", [f"{point}-{death}" for point, deaths in DEATHS.items() for death in deaths])
def test_killed_at_any_point_the_services_recover_and_every_promise_holds(where: str, tmp_path: Path) -> None:
    point, _, death = where.partition("-")
    service, _, times = death.partition(":")
    lose = 9 if point in _AFTER_LOSS else 0
    if point == "retention.pruned":
        assert run(Orders(directory=tmp_path, total=1)) == 0  # makes the tables
        for name in SERVICES:
            _answers_of_long_ago(tmp_path / f"{name}.db", 2500)

    schema = 1
    if point.startswith("upgrade."):
        assert run(Orders(directory=tmp_path, total=TOTAL // 2)) == 0
        schema = 3

    if point in _AFTER_DEATH:
        assert run(Orders(directory=tmp_path, total=TOTAL, fault=f"{service}:consumer.handled:2")) == -signal.SIGKILL
    died = run(
        Orders(
            directory=tmp_path, total=TOTAL, fault=f"{service}:{point}:{times}", lose=lose, linger_s=20.0, schema=schema
        )
    )
    assert died == -signal.SIGKILL, f"{where} was not passed {times} times"
    assert run(Orders(directory=tmp_path, total=TOTAL, lose=lose, schema=schema)) == 0

    assert set(counts(tmp_path).values()) == {TOTAL}
    assert broken_promises(tmp_path) == []


@pytest.mark.slow
def test_killed_again_and_again_at_one_point_the_services_still_get_to_the_end(tmp_path: Path) -> None:
    """Each life applies one batch at most and dies before it knows: nothing but what is committed carries over."""
    orders = Orders(directory=tmp_path, total=TOTAL, fault="beta:consumer.committed:1")
    lives = 1
    while run(orders) == -signal.SIGKILL:
        lives += 1
        assert lives < 3 * TOTAL
    assert lives > 5
    assert broken_promises(tmp_path) == []


def _answers_of_long_ago(path: Path, number: int) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        connection.executemany(
            "INSERT INTO ensue_response (id, response_key, fingerprint, status, headers, body, saved_at) "
            "VALUES (?1, ?1, '', 200, '{}', x'', 0)",
            [(f"old-{each}",) for each in range(number)],
        )
        connection.commit()


SPEAKER = """
import asyncio, ensue

class Said(ensue.Event, topic="said", key="word"):
    word: str

speaker = ensue.Service("speaker")

async def main():
    async with speaker.running():
        for word in ("one", "two", "three"):
            async with speaker.step() as step:
                step.publish(Said(word=word))
            print(word, flush=True)

asyncio.run(main())
"""


def _speak(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run SPEAKER in `directory`: speaker.py. words: what stands before it on the command line."""
    (directory / "speaker.py").write_text(SPEAKER)
    return subprocess.run(
        [sys.executable, *(words or ("speaker.py",))],
        cwd=directory,
        env={**os.environ, "ENSUE_HOME": str(directory), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("program", [("speaker.py",), ("-m", "speaker")], ids=["a file", "a module"])
def test_a_program_started_by_ensue_testing_faulty_dies_at_the_named_point(
    program: tuple[str, ...], tmp_path: Path
) -> None:
    died = _speak(tmp_path, "-m", "ensue.testing.faulty", "step.committed:2", *program)
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "one\n"), died.stderr
    with closing(sqlite3.connect(tmp_path / "speaker.db")) as database:
        assert database.execute("SELECT count(*) FROM ensue_outbox").fetchone() == (2,)


def test_a_fault_point_that_does_not_exist_is_refused_before_the_program_runs(tmp_path: Path) -> None:
    misspelt = _speak(tmp_path, "-m", "ensue.testing.faulty", "step.comitted", "speaker.py")
    assert (misspelt.returncode, misspelt.stdout) == (1, "")
    assert "no fault point 'step.comitted'" in misspelt.stderr


def test_no_variable_of_the_environment_kills_a_program_that_is_started_as_in_production(tmp_path: Path) -> None:
    lived = _speak(tmp_path, ENSUE_FAULT="step.committed:2")
    assert (lived.returncode, lived.stdout) == (0, "one\ntwo\nthree\n"), lived.stderr
    assert lived.stderr == "ENSUE_FAULT is no setting, and is ignored\n"
