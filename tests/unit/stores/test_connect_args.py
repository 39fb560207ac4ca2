"""What a driver is given for a connection that no URL can say: `connect_args`, as SQLAlchemy's engines take it."""

from __future__ import annotations

import ssl
import sys
from typing import Any

import pytest
from servers import MariaDbServer, PostgresServer
from sqlalchemy import text

from ensue import Service
from ensue.adapters import make_store
from ensue.config import load_settings
from ensue.errors import UsageError


async def seen(database: str, query: str, connect_args: Any = None) -> Any:
    """What a step's own session sees."""
    service = Service("orders", database=database, broker="memory:", connect_args=connect_args)
    async with service.running(work=False), service.step() as step:
        return await step.session.scalar(text(query))


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:
    postgres_server.drop("connecting")
    return postgres_server.url("connecting")


async def test_asyncpg_is_given_server_settings_and_keeps_those_of_ensue(database: str) -> None:
    given = {"server_settings": {"statement_timeout": "4321ms", "application_name": "shop"}, "command_timeout": 30}
    assert await seen(database, "SHOW statement_timeout", given) == "4321ms"
    assert await seen(database, "SHOW application_name", given) == "shop"
    assert await seen(database, "SHOW lock_timeout", given) == "30s"


async def test_asyncpg_asks_for_a_password_at_each_connection(database: str) -> None:
    asked = []

    def password() -> str:
        asked.append("once")
        return "token"

    orders = Service("orders", database=database, broker="memory:", connect_args={"password": password})
    async with orders.running(work=False), orders.step() as one:
        await one.session.execute(text("SELECT 1"))
        before = len(asked)
        async with orders.query() as other:
            await other.execute(text("SELECT 1"))
    assert 0 < before < len(asked)


async def test_psycopg_is_given_its_own(database: str) -> None:
    url = database.replace("postgresql:", "postgresql+psycopg:")
    given = {"options": "-c statement_timeout=4321ms", "application_name": "shop", "keepalives_idle": 7}
    assert await seen(url, "SHOW statement_timeout", given) == "4321ms"
    assert await seen(url, "SHOW application_name", given) == "shop"
    assert await seen(url, "SHOW lock_timeout", given) == "30s"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
async def test_the_url_names_the_application(database: str, scheme: str) -> None:
    url = database.replace("postgresql:", f"{scheme}:")
    assert await seen(url, "SHOW application_name") == "ensue"
    assert await seen(f"{url}?application_name=shop", "SHOW application_name") == "shop"


async def test_asyncmy_is_given_its_own(mariadb_server: MariaDbServer) -> None:
    url = mariadb_server.url("connecting")
    mariadb_server.sql("CREATE OR REPLACE USER shop IDENTIFIED BY 'secret'; GRANT ALL ON connecting.* TO shop")
    assert await seen(url, "SELECT user()", {"user": "shop", "password": "secret"}) == "shop@127.0.0.1"


async def test_of_mariadb_a_database_is_not_there_and_a_wrong_password_is_an_error(
    mariadb_server: MariaDbServer,
) -> None:
    url = mariadb_server.url("connecting")
    mariadb_server.sql("CREATE OR REPLACE USER nobody IDENTIFIED BY 'secret'; GRANT ALL ON connecting.* TO nobody")
    at = url.rpartition("@")[2]
    for refused in (
        url.replace("/connecting", "/nowhere"),
        f"mariadb://nobody:secret@{at}".replace("/connecting", "/no"),
    ):
        assert not await make_store(refused, "shop").exists()
    with pytest.raises(UsageError, match="see user, password and database in the URL"):
        await make_store(f"mariadb://nobody:wrong@{at}", "shop").exists()


@pytest.mark.parametrize(
    ("scheme", "given", "says"),
    [
        ("postgresql", {"record_class": dict}, "connect_args has record_class, which Ensue sets itself"),
        ("postgresql+psycopg", {"autocommit": False}, "connect_args has autocommit, which Ensue sets itself"),
        ("mariadb", {"charset": "latin1"}, "connect_args has charset, which Ensue sets itself"),
        ("postgresql", {"sslmod": "x"}, "connect_args has sslmod: .*unexpected keyword argument"),
        ("postgresql+psycopg", {"sslmod": "x"}, 'connect_args: invalid connection option "sslmod"'),
        ("mariadb", {"sslmod": "x"}, "connect_args has sslmod: .*unexpected keyword argument"),
        ("postgresql", {"server_settings": {"no_such": "1"}}, "or server_settings in connect_args: .*no_such"),
    ],
)
async def test_what_cannot_be_given_is_refused_with_its_name(
    request: pytest.FixtureRequest, scheme: str, given: dict[str, Any], says: str
) -> None:
    server = request.getfixturevalue("mariadb_server" if scheme == "mariadb" else "postgres_server")
    with pytest.raises(UsageError, match=says):
        await seen(server.url("connecting", scheme), "SELECT 1", given)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///x.db", r"connect_args=\['ssl'\] are for postgresql, mariadb, mysql; sqlite has none"),
        ("redis://h/1", "redis has none"),
        ("postgresql://h/x?outbox=wal", r"connect_args=\['ssl'\] with outbox=wal: .* use outbox=poll"),
    ],
)
def test_where_no_driver_connects_it_is_refused(url: str, says: str) -> None:
    service = Service("orders", database=url, connect_args={"ssl": ssl.create_default_context()})
    with pytest.raises(UsageError, match=says):
        service.make_store()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("sqlite+aiosqlite:///shop.db", "sqlite:///shop.db"),
        ("postgresql+psycopg2://u:p@h/x", "postgresql://u:p@h/x"),
        ("postgres+psycopg://u:p@h/x", "postgresql+psycopg://u:p@h/x"),
        ("postgresql+asyncpg://u:p@h/x", "postgresql+asyncpg://u:p@h/x"),
        ("mysql+aiomysql://h/x?charset=utf8mb4", "mysql://h/x?charset=utf8mb4"),
        ("mariadb+pymysql://h/x", "mariadb://h/x"),
        ("sqlite+pysqlcipher://x", "sqlite+pysqlcipher://x"),
    ],
)
def test_the_url_of_an_applications_own_engine_will_do(given: str, found: str) -> None:
    assert load_settings("orders", database=given, environment={}).database == found


@pytest.mark.parametrize(
    ("url", "driver"), [("postgresql://db/shop", "asyncpg"), ("postgresql+psycopg://db/shop", "psycopg")]
)
def test_a_driver_that_is_not_installed_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, url: str, driver: str
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(
        UsageError, match=rf'^database postgresql, by {driver}, needs .*: pip install "ensue\[postgres\]"$'
    ):
        make_store(url, "shop")
