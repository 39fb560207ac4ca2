"""The same handlers come out alike on every store, in one process and in two: see `handlers.py`."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.everyday import handlers

from ensue import Service
from ensue.config import EngineConfig
from ensue.message import DeadLetterState

EVENTS = 60
LIMIT_S = 100.0
STORES = ("sqlite", "asyncpg", "psycopg", "mariadb")

#: Processes are forked from one that has everything imported.
_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.everyday.handlers"])


@pytest.fixture(params=STORES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/bank.db?synchronous=OFF"
        return
    server = request.getfixturevalue("mariadb_server" if request.param == "mariadb" else "postgres_server")
    name = f"everyday_{request.param}"
    server.drop(name)
    url = server.url(name)
    yield url.replace("postgresql:", "postgresql+psycopg:") if request.param == "psycopg" else url
    server.drop(name)


def engine(batch: int) -> EngineConfig:
    return EngineConfig(batch_records_max=batch, lease_ttl_s=1.0, poll_interval_s=0.1)


def work(options: dict[str, Any], batch: int) -> None:
    """Another process of the bank, until it is told to end."""

    async def run() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        async with handlers.service(**options, engine=engine(batch)).running():
            await ended.wait()

    asyncio.run(run())


async def done(bank: Service, number: int) -> None:
    """Return when so many messages have taken effect."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            checkpoints = await bank.runtime.context.books.checkpoints()
            if sum(each.counters.applied for each in checkpoints.values()) >= number:
                return
            await asyncio.sleep(0.05)  # another process may be at work, which tells nobody here


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("processes", "batch"), [(1, 1), (1, 50), (2, 50)])
async def test_handlers_come_out_alike(database: str, tmp_path: Path, processes: int, batch: int) -> None:
    random = Random(f"{processes} {batch}")
    both = [handlers.paid(n, random.choice(handlers.ACCOUNTS), random.randrange(1, 100)) for n in range(EVENTS)]
    options: dict[str, Any] = {"database": database, "broker": f"sqlite:///{tmp_path}/log.db?synchronous=OFF"}
    payments = Service(
        "payments", database=f"sqlite:///{tmp_path}/payments.db?synchronous=OFF", broker=options["broker"]
    )
    bank = handlers.service(**options, engine=engine(batch))
    async with bank.running(work=False), bank.step() as step:
        step.session.add_all(handlers.rows())
    async with payments.running():
        for pair in both:
            async with payments.step() as step:
                for event in pair:
                    step.publish(event)
        others = [_children.Process(target=work, args=(options, batch)) for _ in range(processes - 1)]
        for each in others:
            each.start()
        try:
            async with bank.running():
                await done(bank, 2 * EVENTS)
                letters = await bank.runtime.context.books.letters()
                checkpoints = await bank.runtime.context.books.checkpoints()
                async with bank.query() as session:
                    found = await handlers.found(session)
        finally:
            for each in others:
                each.terminate()
                each.join(LIMIT_S)
    assert found == handlers.expected([paid for paid, _ in both])
    assert not letters, [(each.state, each.error) for each in letters]
    assert DeadLetterState.DEAD not in {each.state for each in letters}
    assert sum(each.counters.retries for each in checkpoints.values()) == 0, "a race was blamed on a message"
    assert all(each.exitcode == 0 for each in others)
