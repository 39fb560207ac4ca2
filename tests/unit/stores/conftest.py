"""The stores, each on a database of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from ensue.adapters import make_store as store_at
from ensue.ports import Store
from ensue.stores.mariadb.store import MariaDbStore
from ensue.stores.memory import MemoryStore
from ensue.stores.postgres.store import PostgresStore

MakeStore = Callable[[str], Store]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def make_store(request: pytest.FixtureRequest) -> MakeStore | None:
    """For `ensue.testing.run(..., make_store=)`; None: SQLite, as there by itself."""
    database = f"test_{secrets.token_hex(4)}"
    if request.param == "postgres":
        postgres = request.getfixturevalue("postgres_server")
        postgres.psql("postgres", f"CREATE DATABASE {database}")
        return lambda service: PostgresStore(postgres.url(database), service)
    if request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb_server")
        mariadb.sql(f"CREATE DATABASE {database}")
        return lambda service: MariaDbStore(mariadb.url(database), service)
    return None


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg", "mariadb", "memory", "redis", "mongodb"])
def make_any_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Every store, with each of its drivers."""
    name = f"any_{secrets.token_hex(4)}"
    if request.param in ("asyncpg", "psycopg"):
        postgres = request.getfixturevalue("postgres_server")
        postgres.psql("postgres", f"CREATE DATABASE {name}")
        url = postgres.url(name, f"postgresql+{request.param}")
    elif request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb_server")
        mariadb.sql(f"CREATE DATABASE {name}")
        url = mariadb.url(name)
    elif request.param == "redis":  # its database is shared: names are not
        redis = request.getfixturevalue("redis_server").url(0)
        return lambda service: store_at(redis, f"{service}-{name.replace('_', '-')}")
    elif request.param == "mongodb":
        url = request.getfixturevalue("mongodb_server").url(name)
    elif request.param == "memory":
        return MemoryStore
    else:
        url = f"sqlite:///{tmp_path}/{name}.db"
    return lambda service: store_at(url, service)
