"""The operators' commands on databases that are servers: make it, check it, look at it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from servers import MariaDbServer, MongoDbServer, PostgresServer, RedisServer
from tests.unit.cli.harness import Ended

Command = Callable[..., Ended]
HISTORY = "shop.order_history:order_history"
VARIABLE = "ENSUE_ORDER_HISTORY_DATABASE"


def tried(ensue: Command) -> None:
    """Nothing is there, it is made, checked and looked at; no password is shown."""
    missing = ensue("db", "check", HISTORY)
    assert missing.code == 1
    assert re.search(r"order_history(@1)? has no (database|version 1) at", missing.err)
    made = ensue("db", "init", HISTORY)
    assert made.code == 0, made.err
    assert "source order_history@1/" in made.out
    assert ensue("db", "init", HISTORY).out == made.out
    checked = ensue("db", "check", HISTORY)
    assert checked.code == 0, checked.err
    assert "everything is there" in checked.out
    status = ensue("status", HISTORY, "--json")
    assert status.code == 0, status.err
    [service] = status.json["services"]
    assert service["source"].startswith("order_history@1/")
    assert service["partitions"]
    letters = ensue("dead-letters", "list", HISTORY)
    assert letters.code == 0, letters.err
    nobody = ensue("flow", "nobody", HISTORY)
    assert "looked at outbox, timers and dead letters of order_history@1" in nobody.err
    assert nobody.err.count("could not be looked at") == nobody.err.count("could not be looked at: log") == 1


@pytest.mark.parametrize("options", ["", "?outbox=wal"])
def test_on_postgresql(
    ensue: Command, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer, options: str
) -> None:
    name = f"cli_{options.rpartition('=')[2] or 'poll'}"
    monkeypatch.setenv(VARIABLE, postgres_server.url(name) + options)
    tried(ensue)


def test_on_mariadb(ensue: Command, monkeypatch: pytest.MonkeyPatch, mariadb_server: MariaDbServer) -> None:
    mariadb_server.drop("cli")
    monkeypatch.setenv(VARIABLE, mariadb_server.url("cli"))
    tried(ensue)


def test_on_redis(ensue: Command, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer) -> None:
    monkeypatch.setenv(VARIABLE, redis_server.url(17))
    tried(ensue)


def test_on_mongodb(ensue: Command, monkeypatch: pytest.MonkeyPatch, mongodb_server: MongoDbServer) -> None:
    monkeypatch.setenv(VARIABLE, mongodb_server.url("cli"))
    tried(ensue)
