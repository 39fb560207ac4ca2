"""Real servers as fixtures: one of a kind for a whole run, started when first asked for.

A server that is not installed skips its tests with one line; with ENSUE_REQUIRE_SERVERS=all (as in continuous
integration) it fails them. Each test makes a database, a prefix or topics of its own on the shared server; a test
that kills or damages its server starts one for itself with `start(PostgresServer)`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from servers import (
    KafkaServer,
    MariaDbServer,
    MongoDbServer,
    NatsCluster,
    NatsServer,
    PgBouncer,
    PostgresServer,
    RabbitMqServer,
    RedisServer,
    Server,
)

S = TypeVar("S", bound=Server | NatsCluster)


def pytest_collection_finish() -> None:
    """Spare each collection what stays until the end: all modules and thousands of tests."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what failed where nobody can look: a run that is cut off says it too."""
    if report.failed and os.environ.get("CI") and not os.environ.get("PYTEST_XDIST_WORKER"):
        why = getattr(getattr(report.longrepr, "reprcrash", None), "message", report.longreprtext).strip()
        print(f"\nFAILED {report.nodeid} ({report.when}, {report.duration:.0f} s): {why[:400]}", flush=True)


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """What a file leaves to the garbage collector says so there, and not in a test of another file."""
    yield
    gc.collect()


def required(missing: str) -> None:
    """Skip, or fail where no server may be missing. missing: what is not there, in one line; empty: nothing."""
    if not missing:
        return
    if os.environ.get("ENSUE_REQUIRE_SERVERS") == "all":
        pytest.fail(missing)
    pytest.skip(missing)


def started(kind: type[S], **options: Any) -> Iterator[S]:
    required(kind.missing())
    server = kind(**options)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """`start(RedisServer, durable=True)`: a server for this test alone, stopped at its end."""
    running: list[Server | NatsCluster] = []

    def begin(kind: type[S], **options: Any) -> S:
        required(kind.missing())
        server = kind(**options)
        running.append(server)
        server.start()
        return server

    yield begin
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    yield from started(PostgresServer)


@pytest.fixture(scope="session")
def pgbouncer_server(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    required(PgBouncer.missing())
    with PgBouncer(postgres_server) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    yield from started(MariaDbServer)


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg", "mariadb"])
def sql_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on each store with sessions and by each driver."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/sessions.db?synchronous=OFF"
        return
    server = request.getfixturevalue("mariadb_server" if request.param == "mariadb" else "postgres_server")
    name = f"sessions_{request.param}"
    server.drop(name)
    yield server.url(name, "mariadb" if request.param == "mariadb" else f"postgresql+{request.param}")
    server.drop(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    yield from started(RedisServer)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    yield from started(NatsServer)


@pytest.fixture(scope="session")
def nats_cluster() -> Iterator[NatsCluster]:
    yield from started(NatsCluster)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMqServer]:
    yield from started(RabbitMqServer)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    yield from started(KafkaServer)


@pytest.fixture(scope="session")
def mongodb_server() -> Iterator[MongoDbServer]:
    yield from started(MongoDbServer)
