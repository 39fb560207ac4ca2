"""Entity steps on plain tables come out alike on every store, those without SQL too: see `tables.py`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
from tests.everyday import tables
from tests.everyday.processes import engine, worked_through

from ensue import Service

EVENTS = 60
_numbers = count()


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg", "mariadb", "mongodb", "redis"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    kind = request.param
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path}/plain.db?synchronous=OFF"
        return
    server = request.getfixturevalue(
        {"mariadb": "mariadb_server", "mongodb": "mongodb_server", "redis": "redis_server"}.get(kind, "postgres_server")
    )
    if kind == "redis":
        url = server.url(31)
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        yield url
        return
    name = f"everyday_tables_{kind}_{next(_numbers)}"
    url = server.url(name)
    yield url.replace("postgresql:", "postgresql+psycopg:") if kind == "psycopg" else url


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("processes", "batch"), [(1, 1), (1, 50), (2, 50)])
async def test_entity_steps_on_tables_come_out_alike(database: str, tmp_path: Path, processes: int, batch: int) -> None:
    random = Random(f"{processes} {batch}")
    events = [tables.paid(n, random.choice(tables.ACCOUNTS), random.randrange(1, 100)) for n in range(EVENTS)]
    options: dict[str, Any] = {"database": database, "broker": f"sqlite:///{tmp_path}/log.db?synchronous=OFF"}
    payments = Service(
        "payments", database=f"sqlite:///{tmp_path}/payments.db?synchronous=OFF", broker=options["broker"]
    )
    options["engine"] = engine(batch)
    done = worked_through(tables.service, [(each,) for each in events], payments, processes, **options)
    async with done as plain, plain.rows() as rows:
        found = await tables.found(rows)
    assert found == tables.expected(events)
