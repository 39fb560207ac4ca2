"""A version of a view has a place of its own beside others, and nothing else goes with it when it is removed."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from servers import MariaDbServer

from ensue.adapters import make_place, make_store
from ensue.errors import UsageError
from ensue.tables import VIEWS


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg", "mariadb", "redis", "mongodb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that may be there, as a service's has to be."""
    name = f"places_{secrets.token_hex(4)}"
    if request.param in ("asyncpg", "psycopg"):
        postgres = request.getfixturevalue("postgres_server")
        postgres.psql("postgres", f"CREATE DATABASE {name}")
        return str(postgres.url(name, f"postgresql+{request.param}"))
    if request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb_server")
        mariadb.sql(f"CREATE DATABASE {name}")
        return str(mariadb.url(name))
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url(41))
    if request.param == "mongodb":
        return str(request.getfixturevalue("mongodb_server").url(name))
    return f"sqlite:///{tmp_path}/{name}.db?synchronous=OFF"


def row(name: str) -> tuple[object, ...]:
    return (name, 1, 0, 0, "live", 0.0, 0.0, 0.0, "", "[]", 1)


async def test_what_is_in_a_place_goes_with_it_and_nothing_else(url: str) -> None:
    view = f"history-{secrets.token_hex(3)}"
    places = [make_place(url, view, f"v{version}") for version in (1, 2, 12)]
    stores = {view: make_store(url, view)}
    for place in places:
        await place.make()
        await place.make()  # safe to repeat
        stores[place.service] = make_store(place.url, place.service)
    assert list(stores) == [view, f"{view}@1", f"{view}@2", f"{view}@12"]
    for name, store in stores.items():
        assert not await store.exists()
        await store.open()
        await store.make_own([VIEWS])
        async with store.transaction() as transaction:
            await transaction.insert_rows(VIEWS, [row(name)])
    for name, store in stores.items():
        found = await store.rows().get(VIEWS, list(stores))
        assert [each[0] for each in found] == [name]
        await store.close()

    await places[0].remove()
    await places[0].remove()  # safe to repeat
    gone = stores.pop(f"{view}@1")
    assert not await gone.exists()
    for name, store in stores.items():
        await store.open()
        found = await store.rows().get(VIEWS, [name])
        assert [each[0] for each in found] == [name]
        await store.close()

    await places[0].make()
    await gone.open()  # a place that is made again is empty
    await gone.make_own([VIEWS])
    assert await gone.rows().get(VIEWS, [f"{view}@1"]) == []
    await gone.close()
    for place in places:
        await place.remove()


def test_a_place_keeps_what_the_url_says() -> None:
    for url, expected in {
        "sqlite:////var/history.db?synchronous=OFF": "sqlite:////var/history_v2.db?synchronous=OFF",
        "sqlite:///history": "sqlite:///history_v2",
        "postgresql://a:b@db/shop?outbox=wal&sslmode=disable": (
            "postgresql://a:b@db/shop?sslmode=disable&schema=history_v2"
        ),
        "postgresql+psycopg://db/shop?schema=s": "postgresql+psycopg://db/shop?schema=s_v2",
        "mariadb://a:b@db/shop?pool_size=9": "mariadb://a:b@db/shop_v2?pool_size=9",
        "redis://db/3": "redis://db/3",
        "mongodb://a:b@db/shop": "mongodb://a:b@db/shop_v2?authSource=shop",
        "mongodb://a:b@db/shop?authSource=admin": "mongodb://a:b@db/shop_v2?authSource=admin",
        "mongodb://db": "mongodb://db/history_v2",
    }.items():
        assert make_place(url, "history", "v2").url == expected


def test_a_name_that_the_database_would_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="expected at most 63"):
        make_place("postgresql://db/shop", "h" * 61, "v2")
    with pytest.raises(UsageError, match="small letters"):
        make_place("sqlite:///h.db", "history", "../v2")


async def test_a_user_who_may_make_no_database_is_told_the_grant(mariadb_server: MariaDbServer) -> None:
    name = f"places_{secrets.token_hex(4)}"
    mariadb_server.sql(
        f"CREATE DATABASE {name}; CREATE USER '{name}'@'%' IDENTIFIED BY 'x'; GRANT ALL ON `{name}`.* TO '{name}'@'%'"
    )
    url = mariadb_server.url(name).replace(mariadb_server.url(name).partition("://")[2].partition("@")[0], f"{name}:x")
    place = make_place(url, "history", "v1")
    with pytest.raises(UsageError, match="GRANT ALL ON"):
        await place.make()
    mariadb_server.sql(f"CREATE DATABASE {name}_v1; GRANT ALL ON `{name}_v1`.* TO '{name}'@'%'")
    await place.make()  # an administrator has made it
