"""SIGTERM ends the process within its limits, whatever a handler or the database is at, and however it is run."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.stopping import Fed
from tests.unit.engine.workbench import Sender

from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.cli.serving import HUNG
from ensue.engine.books import Books
from ensue.message import LeaseTable

ROOT = Path(__file__).parents[2]
#: Far above what a stop may take: 5 s by force with `ensue run`, else stop_limit_s (here 1 s) and some more.
LIMIT_S = 90.0

WAYS: dict[str, Sequence[str]] = {
    "run": ("-m", "ensue", "run", "tests.faults.stopping:zoo"),
    "web": ("-m", "uvicorn", "tests.faults.stopping:app", "--port", "0"),
    "script": (str(ROOT / "tests/faults/stopping.py"),),
}
#: uvicorn hands the signal on to whoever started it once it has shut down.
STOPPED = (0, -signal.SIGTERM)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the service as a process; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(way: str, kind: str, **variables: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "ENSUE_HOME": str(tmp_path), "ENSUE_PARTITIONS": "1",
            "ENSUE_STOP_LIMIT_S": "1", "ENSUE_LEASE_TTL_S": "0.6", "KIND": kind, **variables,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, *WAYS[way]], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for each in started:
        if each.poll() is None:
            each.kill()
        each.communicate()


async def _send(directory: Path) -> None:
    broker = EmbeddedBroker(f"sqlite:///{directory}/broker.db")
    await broker.open()
    try:
        await broker.ensure_topic("stops", 1)
        await Sender(broker).send(Fed(animal="bear"))
    finally:
        await broker.close()


async def _leases(url: str) -> LeaseTable:
    store = make_store(url, "zoo")
    await store.open()
    try:
        books = Books(store, "zoo")
        assert await books.letters() == []
        return await books.leases()
    finally:
        await store.close()


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=LIMIT_S)
    return process.returncode, said


def _until_begun(directory: Path) -> None:
    assert (directory / "begun").read_text() == "yes"  # waits until the handler has written it


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["sleeps", "spins", "in a thread"])
def test_a_stop_in_the_middle_of_a_handler_rolls_it_back_and_gives_the_leases_up(
    way: str, kind: str, start: Start, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "begun")
    asyncio.run(_send(tmp_path))
    process = start(way, kind)
    _until_begun(tmp_path)
    code, said = _end(process)
    assert code in STOPPED, said
    assert "did not end within 1 s; it is rolled back" in said
    table = asyncio.run(_leases(f"sqlite:///{tmp_path}/zoo.db"))
    assert (table.workers, table.leases, table.suspects) == ((), (), ())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["postgresql:", "mariadb:"])
def test_a_stop_while_a_handler_waits_for_a_row(
    way: str, scheme: str, start: Start, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres_server" if scheme == "postgresql:" else "mariadb_server")
    server.drop("stops")
    url = server.url("stops")
    os.mkfifo(tmp_path / "begun")

    async def stopped() -> tuple[int, str]:
        """With the row locked by a step of somebody else's."""
        from tests.faults.stopping import places, zoo

        await _send(tmp_path)
        store = make_store(url, "zoo")
        await store.open()
        assert zoo.tables is not None
        await store.create_tables(zoo.tables)
        try:
            async with store.transaction() as transaction:
                await transaction.session.execute(places.insert().values(id=1))
            async with store.transaction() as transaction:
                await transaction.session.execute(places.update().values(id=1))
                process = start(way, "waits_for_a_row", ENSUE_ZOO_DATABASE=url)
                await asyncio.to_thread(_until_begun, tmp_path)
                return await asyncio.to_thread(_end, process)
        finally:
            await store.close()

    code, said = asyncio.run(stopped())
    assert code in STOPPED, said
    table = asyncio.run(_leases(url))
    assert (table.workers, table.leases, table.suspects) == ((), (), ())
    server.drop("stops")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_stop_while_the_whole_database_is_locked(way: str, start: Start, tmp_path: Path) -> None:
    process = start(way, "sleeps")
    path = tmp_path / "zoo.db"

    async def until_it_lives() -> None:
        async with asyncio.timeout(LIMIT_S):
            while not path.exists() or not (await _leases(f"sqlite:///{path}")).workers:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)

    asyncio.run(until_it_lives())
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as locked:
        locked.execute("BEGIN IMMEDIATE")
        asyncio.run(_send(tmp_path))
        code, said = _end(process)
    assert code in (*STOPPED, 1), said


@pytest.mark.slow
@pytest.mark.parametrize("way", ["run", "web"])
def test_a_stop_while_a_database_that_does_not_answer_is_waited_for(way: str, start: Start) -> None:
    """As a machine that is gone: the connection is there, and nothing comes. uvicorn waits for the start, which gives
    up after STORE_WAIT_S."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(LIMIT_S)
        port = silent.getsockname()[1]
        process = start(way, "sleeps", ENSUE_ZOO_DATABASE=f"postgresql://nobody@127.0.0.1:{port}/none")
        connection, _ = silent.accept()
        with connection:
            code, said = _end(process)
    assert code is not None, said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["is_deaf", "blocks"])
def test_what_does_not_even_end_when_it_is_cancelled_is_ended_by_force(kind: str, start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    asyncio.run(_send(tmp_path))
    process = start("run", kind)
    _until_begun(tmp_path)
    code, said = _end(process)
    assert code == 1, said
    assert "ended by force" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in a thread", "is_deaf", "blocks"])
def test_a_process_with_a_handler_that_hangs_ends_by_itself_and_its_exit_status_says_it(
    kind: str, start: Start, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "begun")
    asyncio.run(_send(tmp_path))
    process = start("run", kind, ENSUE_HANDLER_LIMIT_S="0.5")
    _until_begun(tmp_path)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == HUNG, said
    assert "key 'bear', stops/0 offset 1 does not return, and cannot be stopped" in said
    if kind != "is_deaf":
        assert "time.sleep(3600)" in said
    if kind == "in a thread":
        assert asyncio.run(_leases(f"sqlite:///{tmp_path}/zoo.db")).suspects == ("relay", "stops/0")
