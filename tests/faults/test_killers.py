"""A handler that ends its process: its message is found and set aside, all else goes on. With real processes.

And the other way round: a process that is killed from outside blames nobody.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.killer_child import DEADLY, PARTITIONS, Fed, Orders, run, start
from tests.unit.engine.workbench import Sender

from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.engine.attempt import DEATHS_MAX
from ensue.engine.books import Books
from ensue.message import DeadLetter

ANIMALS, MEALS = ("ant", "bear", "cat", "dog", "emu", "fox"), 5
#: The bear's meals 3 and 4 are set aside: the deadly one, and the one that waits behind it.
WHOLE = len(ANIMALS) * MEALS
LEFT = WHOLE - 2
#: The first one with nothing written down, the second one with all that was at hand.
_UNSEEN = 2


async def _send(directory: Path) -> None:
    broker = EmbeddedBroker(f"sqlite:///{directory}/broker.db")
    await broker.open()
    try:
        await broker.ensure_topic("kills", PARTITIONS)
        meals = [Fed(animal=animal, number=number) for number in range(MEALS) for animal in ANIMALS]
        await Sender(broker, partitions=PARTITIONS).send(*meals)
    finally:
        await broker.close()


def _asked(directory: Path, sql: str, service: str = "zoo") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(directory / f"{service}.db", timeout=10)) as connection:
        return connection.execute(sql).fetchall()


def _lives(orders: Orders) -> int:
    """Start it again until it ends by itself; return how many lives it had."""
    lives = 1
    while run(orders):
        lives += 1
        assert lives < 20, "nothing comes of it"
    return lives


def _letters(directory: Path) -> list[tuple[object, ...]]:
    return _asked(directory, "SELECT state, error_type, error, attempts FROM ensue_dead_letter ORDER BY number")


def _eaten(directory: Path, kind: str, service: str = "zoo") -> int:
    [(count,)] = _asked(
        directory, "SELECT sum(eaten) FROM animal" if kind == "entity" else "SELECT count(*) FROM meal", service
    )
    assert isinstance(count, int)
    return count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "deadly"), [("async", each) for each in DEADLY] + [("thread", "exit"), ("entity", "exit")]
)
def test_a_message_that_ends_each_process_becomes_a_dead_letter_and_all_others_are_applied(
    kind: str, deadly: str, tmp_path: Path
) -> None:
    asyncio.run(_send(tmp_path))
    lives = _lives(Orders(directory=tmp_path, kind=kind, deadly=deadly))
    assert _eaten(tmp_path, kind) == LEFT
    [(state, error_type, error, _), (waiting, *_)] = _letters(tmp_path)
    assert (state, error_type, waiting) == ("dead", "HandlerKilled", "waiting")
    assert "killed the process: 3 processes in a row ended" in str(error)
    assert len((tmp_path / "strikes").read_text()) == _UNSEEN + DEATHS_MAX == lives - 1
    assert _asked(tmp_path, "SELECT id FROM ensue_lease WHERE id != 'leases'") == [], "nothing is suspect any more"


@pytest.mark.slow
@pytest.mark.parametrize("server_name", ["postgres_server", "mariadb_server", "mongodb_server"])
def test_it_is_found_on_every_kind_of_store(server_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(server_name)
    if server_name != "mongodb_server":
        server.drop("killers")
    url = server.url("killers")
    asyncio.run(_send(tmp_path))
    lives = _lives(Orders(directory=tmp_path, kind="entity", database=url))

    async def look() -> tuple[list[DeadLetter], int]:
        store = make_store(url, "zoo")
        await store.open()
        try:
            books = Books(store, "zoo")
            return await books.letters(), sum(each.counters.applied for each in (await books.checkpoints()).values())
        finally:
            await store.close()

    letters, applied = asyncio.run(look())
    assert [(each.state.value, each.error_type) for each in letters] == [("dead", "HandlerKilled"), ("waiting", "")]
    assert applied == LEFT
    assert lives - 1 <= _UNSEEN + DEATHS_MAX


@pytest.mark.slow
def test_a_letter_that_ends_the_process_when_it_is_tried_again_is_dead_after_as_many_deaths(tmp_path: Path) -> None:
    asyncio.run(_send(tmp_path))
    lives = _lives(Orders(directory=tmp_path, later=True))
    assert _eaten(tmp_path, "async") == LEFT
    [(state, error_type, *_), (waiting, *_)] = _letters(tmp_path)
    assert (state, error_type, waiting) == ("dead", "HandlerKilled", "waiting")
    assert lives - 1 == 1 + DEATHS_MAX  # a letter is always alone


@pytest.mark.slow
def test_neither_other_lanes_nor_other_services_of_the_process_are_blamed(tmp_path: Path) -> None:
    asyncio.run(_send(tmp_path))
    _lives(Orders(directory=tmp_path, neighbour=True, lanes=4))
    assert [each[0] for each in _letters(tmp_path)] == ["dead", "waiting"]
    assert _eaten(tmp_path, "async") == LEFT
    assert _eaten(tmp_path, "async", "neighbour") == WHOLE
    assert _asked(tmp_path, "SELECT * FROM ensue_dead_letter", "neighbour") == []


@pytest.mark.slow
def test_a_process_that_is_killed_from_outside_at_any_time_blames_nobody(tmp_path: Path) -> None:
    asyncio.run(_send(tmp_path))
    orders = Orders(directory=tmp_path, deadly="none")
    for killed_after_s in [0.02 * number for number in range(1, 15)]:
        process = start(orders)
        process.join(killed_after_s)
        process.kill()
        process.join()
    assert run(orders) == 0
    assert _letters(tmp_path) == []
    assert _eaten(tmp_path, "async") == WHOLE
