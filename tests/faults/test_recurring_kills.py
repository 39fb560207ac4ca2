"""Each due time of a recurring step takes effect once, wherever its process is killed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.faults.recurring_child import RAN, TICK_S, run, start

from ensue.adapters import make_store

#: In which pass of each point the process dies. Those of the start have a first pass alone.
DEATHS = {
    "recurring.armed": (1,),
    "recurring.committed": (1,),
    "timers.read": (1, 5),
    "timers.moved": (1, 5),
    "timers.committed": (1, 5),
    "relay.appended": (1, 4),
    "consumer.read": (2, 6),
    "consumer.begun": (1, 6),
    "consumer.handled": (1, 5),
    "consumer.outbox_written": (1, 5),
    "consumer.checkpoint_written": (1, 5),
    "consumer.committed": (1, 5),
    "letter.aside": (1, 2),
    "letter.handled": (1, 2),
    "letter.committed": (1, 2),
}
RUNS = 16


async def _dues(url: str) -> list[float]:
    store = make_store(url, "clock")
    await store.open()
    try:
        async with store.reading() as session:
            return sorted(await session.scalars(select(RAN.c.due)))
    finally:
        await store.close()


def check(url: str, runs: int = RUNS) -> None:
    """With missed="all" each due time since the first has a run, and one only."""
    found = asyncio.run(_dues(url))
    beats = [round((due - found[0]) / TICK_S) for due in found]
    missing = sorted({*range(beats[-1])} - {*beats})
    assert len(set(beats)) == len(beats), f"some took effect twice: {beats}"
    # One that failed is tried again after its successors, so it may not have come yet.
    assert len(missing) <= 2, f"some did not take effect: {missing}"
    assert len(found) >= runs


@pytest.mark.slow
@pytest.mark.parametrize("where", [f"{point}:{time}" for point, times in DEATHS.items() for time in times])
def test_killed_at_any_point_each_due_time_takes_effect_once(where: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/clock.db"
    assert run(url, tmp_path, RUNS, where) == -signal.SIGKILL, f"{where} was not passed"
    assert run(url, tmp_path, RUNS) == 0
    check(url)


@pytest.mark.slow
def test_killed_where_the_effects_are_written_each_due_time_takes_effect_once(
    sql_database: str, tmp_path: Path
) -> None:
    for lives, where in enumerate(("consumer.checkpoint_written:3", "timers.moved:3", "letter.aside:1"), 1):
        assert run(sql_database, tmp_path, RUNS * lives, where) == -signal.SIGKILL, f"{where} was not passed"
    assert run(sql_database, tmp_path, RUNS * 3) == 0
    check(sql_database, RUNS * 3)


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_again_and_again(sql_database: str, tmp_path: Path) -> None:
    other = start(sql_database, tmp_path, RUNS * 4)
    try:
        deaths = sum(
            run(sql_database, tmp_path, RUNS * 4, where) == -signal.SIGKILL
            for where in ("recurring.committed:1", "recurring.armed:1", "recurring.committed:1")
        )
        other.join(60)
        assert (deaths, other.exitcode) == (3, 0)
    finally:
        other.kill()
    check(sql_database, RUNS * 4)
