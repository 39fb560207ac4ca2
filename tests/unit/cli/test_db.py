from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli import services
from tests.unit.cli.harness import LEDGER, TILL, Ended, applied, books_of, work_until
from tests.unit.cli.services import Entry, Sold, ledger, till
from tests.unit.engine.schemas import SCHEMAS

from ensue import Service
from ensue.engine.books import HALLMARK

Command = Callable[..., Ended]


def sql(path: Path, *statements: str) -> list[Sequence[Any]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            rows: list[Sequence[Any]] = connection.execute(statement).fetchall()
        return rows


def test_init_creates_what_is_missing_and_may_be_repeated(ensue: Command, home: Path) -> None:
    first = ensue("db", "init", LEDGER)
    assert first.code == 0
    assert "Ensue's tables and 1 of ledger's own are there; source ledger/" in first.out
    tables = {name for (name,) in sql(home / "ledger.db", "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert {"entries", "ensue_outbox", "ensue_checkpoint"} <= tables
    # The key of the ids too: two sessions that publish before any worker would both make it, and one be refused.
    assert {name for (name,) in sql(home / "ledger.db", "SELECT id FROM ensue_relay")} >= set(HALLMARK)
    assert not (home / "broker.db").exists()
    assert ensue("db", "init", LEDGER).out == first.out
    assert ensue("db", "check", LEDGER).code == 0


def test_who_has_made_tables_is_kept_and_who_found_them_there_is_not(ensue: Command, home: Path) -> None:
    assert ensue("db", "init", LEDGER, "--by", "ann@desk", "--reason", "the first day").code == 0
    assert ensue("db", "init", LEDGER).code == 0  # as at each start of a container
    sql(home / "ledger.db", "DROP TABLE entries")
    assert ensue("db", "init", LEDGER, "--by", "bob").code == 0
    first, second = ensue("decisions", "list", LEDGER, "--json").json["decisions"]
    assert (first["action"], first["actor"], first["reason"]) == ("db init", "ann@desk", "the first day")
    assert first["target"].startswith("ledger/")
    assert (first["before"]["schema"], first["after"]["made"]) == (None, ["table entries"])
    assert (second["actor"], second["before"]) == ("bob", {"schema": first["after"]["schema"]})
    assert second["after"] == first["after"]


def test_init_brings_ensue_s_tables_to_a_newer_schema(
    ensue: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensue("db", "init", LEDGER)
    assert ensue("status", LEDGER).code == 0
    for module in ("ensue.cli.db", "ensue.operations.opening"):
        monkeypatch.setattr(f"{module}.SCHEMA", SCHEMAS[2])
    for command in (("db", "check"), ("status",), ("dead-letters", "list")):
        ended = ensue(*command, LEDGER)
        assert ended.code == 1
        assert "are of schema 1, this Ensue works with 2: they are brought to it when the service starts" in ended.err
    assert ensue("db", "init", LEDGER).code == 0
    assert sql(home / "ledger.db", "SELECT id FROM ensue_test_note") == [("first",)]
    assert ensue("db", "check", LEDGER).code == 0
    assert ensue("status", LEDGER, "--json").json["services"][0]["tables"] == {"schema": 2, "readable_by": 1}
    assert "schema 2, for processes of schema 1 or later" in ensue("status", LEDGER).out


def test_no_command_touches_tables_that_are_too_new(
    ensue: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("ensue.operations.opening.SCHEMA", SCHEMAS[3])
        ensue("db", "init", LEDGER)
    for command in (("db", "init"), ("db", "check"), ("status",), ("dead-letters", "list"), ("db", "new-epoch", "-y")):
        ended = ensue(*command, LEDGER)
        assert ended.code == 1
        assert "of schema 3, for processes of schema 3 or later" in ended.err
        assert "this process has schema 1" in ended.err


def test_check_makes_nothing(ensue: Command, home: Path) -> None:
    ended = ensue("db", "check", LEDGER)
    assert ended.code == 1
    assert "has no database" in ended.err
    assert not home.exists()


def test_check_of_a_database_without_ensue_s_tables_leaves_it_as_it_is(ensue: Command, home: Path) -> None:
    home.mkdir()
    sql(home / "ledger.db", "CREATE TABLE entries (id INTEGER PRIMARY KEY)")
    before = (home / "ledger.db").read_bytes()
    ended = ensue("db", "check", LEDGER)
    assert ended.code == 1
    assert "not Ensue's tables" in ended.err
    assert (home / "ledger.db").read_bytes() == before


def test_check_names_missing_tables_and_columns(ensue: Command, home: Path) -> None:
    ensue("db", "init", LEDGER)
    sql(home / "ledger.db", "ALTER TABLE entries DROP COLUMN amount")
    ended = ensue("db", "check", LEDGER)
    assert ended.code == 1
    assert "lacks column entries.amount" in ended.err
    sql(home / "ledger.db", "DROP TABLE entries")
    ended = ensue("db", "check", LEDGER)
    assert "lacks table entries" in ended.err
    assert f"ensue db init {LEDGER}" in ended.err


def test_check_refuses_tables_of_another_version(ensue: Command, home: Path) -> None:
    ensue("db", "init", LEDGER)
    sql(home / "ledger.db", "UPDATE ensue_meta SET schema_version = 99")
    ended = ensue("db", "check", LEDGER)
    assert ended.code == 1
    assert "version 99" in ended.err


def test_a_new_epoch_is_refused_while_a_worker_lives(ensue: Command, home: Path, sell: Callable[..., None]) -> None:
    sell(("ann", 1))
    asyncio.run(beat("elsewhere:1:a"))
    refused = ensue("db", "new-epoch", TILL, "--yes")
    assert refused.code == 1
    assert "service till runs (elsewhere:1:a)" in refused.err
    assert "stop it first" in refused.err
    before = sql(home / "till.db", "SELECT epoch FROM ensue_meta")
    assert ensue("db", "new-epoch", TILL, "--force", answer="n\n").code == 1
    assert sql(home / "till.db", "SELECT epoch FROM ensue_meta") == before
    forced = ensue("db", "new-epoch", TILL, "--force", "--yes")
    assert forced.code == 0
    assert "1 record(s) after it are new" in forced.out
    assert "it needs no new epoch" in forced.out
    assert sql(home / "till.db", "SELECT epoch FROM ensue_meta") != before


def test_a_database_that_agrees_with_the_log_gets_no_new_epoch_unless_forced(
    ensue: Command, home: Path, sell: Callable[..., None]
) -> None:
    sell(("ann", 1))
    asyncio.run(work_until(applied_one, till, ledger))
    before = sql(home / "till.db", "SELECT epoch FROM ensue_meta")
    refused = ensue("db", "new-epoch", TILL, "--yes")
    assert refused.code == 1
    assert "till needs no new epoch" in refused.err
    assert sql(home / "till.db", "SELECT epoch FROM ensue_meta") == before
    assert ensue("db", "new-epoch", TILL, "--yes", "--force").code == 0
    assert sql(home / "till.db", "SELECT epoch FROM ensue_meta") != before


def test_check_names_the_missing_table_of_a_handlers_entity(ensue: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Service("archive")

    @archive.on(id="amount")
    def keep(entry: Entry | None, event: Sold) -> None: ...

    monkeypatch.setattr(services, "archive", archive, raising=False)
    target = LEDGER.replace(":ledger", ":archive")
    assert ensue("db", "init", target).code == 0
    ended = ensue("db", "check", target)
    assert ended.code == 1
    assert "lacks table entries, needed by handler keep of sales.Sold.v1 (Entry)" in " ".join(ended.err.split())


async def beat(worker: str) -> None:
    async with books_of(till) as (_, books):
        await books.heartbeat(worker, 60.0)


async def applied_one() -> bool:
    return await applied() == 1


def test_a_new_epoch_wants_the_log_to_compare_with(ensue: Command) -> None:
    ensue("db", "init", TILL)
    ended = ensue("db", "new-epoch", TILL, "--yes")
    assert ended.code == 1
    assert "there is no broker" in ended.err


def test_a_service_whose_table_lacks_a_column_does_not_start(ensue: Command, home: Path) -> None:
    ensue("db", "init", LEDGER)
    sql(home / "ledger.db", "ALTER TABLE entries DROP COLUMN amount")
    ended = ensue("run", LEDGER)
    assert ended.code == 1
    [line] = [line for line in ended.err.splitlines() if line.startswith("ensue: ")]
    assert "service ledger lacks column entries.amount; " in line
    assert "want a migration" in line
