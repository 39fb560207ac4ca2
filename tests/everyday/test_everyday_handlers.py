"""The same handlers come out alike on every store, in one process and in two: see `handlers.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.everyday import handlers
from tests.everyday.processes import engine, worked_through

from ensue import Service

EVENTS = 60
STORES = ("sqlite", "asyncpg", "psycopg", "mariadb")


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


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("processes", "batch"), [(1, 1), (1, 50), (2, 50)])
async def test_handlers_come_out_alike(database: str, tmp_path: Path, processes: int, batch: int) -> None:
    random = Random(f"{processes} {batch}")
    both = [handlers.paid(n, random.choice(handlers.ACCOUNTS), random.randrange(1, 100)) for n in range(EVENTS)]
    options: dict[str, Any] = {"database": database, "broker": f"sqlite:///{tmp_path}/log.db?synchronous=OFF"}
    payments = Service(
        "payments", database=f"sqlite:///{tmp_path}/payments.db?synchronous=OFF", broker=options["broker"]
    )
    options["engine"] = engine(batch)
    bank = handlers.service(**options)
    async with bank.running(work=False), bank.step() as step:
        step.session.add_all(handlers.rows())
    async with worked_through(handlers.service, both, payments, processes, **options) as bank, bank.query() as session:
        found = await handlers.found(session)
    assert found == handlers.expected([paid for paid, _ in both])
