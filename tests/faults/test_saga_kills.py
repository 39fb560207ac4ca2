"""Each step of a saga takes effect once, and is undone once or not at all, wherever a process is killed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.faults.sagas_child import ACCOUNT, REFUSED_EVERY, TRIP, begin, ended

from ensue.adapters import make_store
from ensue.tables import TIMERS

#: At which pass of each point the service of the sagas dies, from a record's reading to its commit, and on the way of
#: its timers and commands; and the one that answers.
DEATHS = {
    "consumer.read": ("travel:1", "travel:5"),
    "consumer.begun": ("travel:1", "travel:6"),
    "consumer.handled": ("travel:1", "travel:4", "teller:2"),
    "consumer.outbox_written": ("travel:1", "travel:4"),
    "consumer.checkpoint_written": ("travel:1", "travel:5", "teller:2"),
    "consumer.committed": ("travel:1", "travel:5", "teller:2"),
    "command.declined": ("teller:1",),
    "letter.aside": ("travel:1",),
    "letter.handled": ("travel:1",),
    "relay.appended": ("travel:2", "travel:6", "teller:2"),
    "timers.read": ("travel:2",),
    "timers.moved": ("travel:1", "travel:3"),
    "timers.committed": ("travel:1", "travel:2"),
    "step.outbox_written": ("travel:4",),
}
TOTAL = 15


async def broken(url: str, directory: Path) -> list[str]:
    travel, teller = make_store(url, "travel"), make_store(f"sqlite:///{directory}/teller.db", "teller")
    await travel.open()
    await teller.open()
    try:
        async with travel.reading() as session:
            trips = {number: done.split() for number, done in await session.execute(select(TRIP))}
        timers = await travel.rows().find(TIMERS, TIMERS.lookups[0], (), limit=100)
        async with teller.reading() as session:
            done = Counter(each for text in await session.scalars(select(ACCOUNT.c.done)) for each in text.split())
    finally:
        await teller.close()
        await travel.close()
    wrong = []
    for number in range(1, TOTAL + 1):
        refused = number % REFUSED_EVERY == 0
        expected = ["packed", "unpacked"] if refused else ["packed", "left"]
        if trips.get(number) != expected:
            wrong.append(f"trip {number}: {trips.get(number)}")
        did = {each: done[f"{each}-{number}"] for each in ("book", "pay", "unbook")}
        if did != {"book": 1, "pay": int(not refused), "unbook": int(refused)}:
            wrong.append(f"teller {number}: {did}")
    if timers:
        wrong.append(f"timers are left: {timers}")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("where", [f"{point}-{death}" for point, deaths in DEATHS.items() for death in deaths])
def test_killed_at_any_point_each_saga_takes_effect_once(where: str, tmp_path: Path) -> None:
    point, _, death = where.partition("-")
    service, _, times = death.partition(":")
    url = f"sqlite:///{tmp_path}/travel.db"
    killed = ended(begin(url, tmp_path, TOTAL, f"{service}:{point}:{times}"))
    assert killed == -signal.SIGKILL, f"{where} was not passed"
    assert ended(begin(url, tmp_path, TOTAL)) == 0
    assert asyncio.run(broken(url, tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_two_processes_share_the_sagas_and_one_is_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/travel.db"
    if kind != "sqlite":
        server = request.getfixturevalue("mariadb_server" if kind == "mariadb" else "postgres_server")
        server.drop("saga_travel")
        url = server.url("saga_travel", kind)
    first = begin(url, tmp_path, TOTAL)
    second = begin(url, tmp_path, TOTAL, "travel:consumer.checkpoint_written:3", starts=False)
    assert ended(first) == 0
    assert ended(second) in (-signal.SIGKILL, 0), "unless the other one was quicker"
    assert asyncio.run(broken(url, tmp_path)) == []
