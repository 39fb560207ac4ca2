"""A database is put back from an old copy while its service had gone on: nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.unit.cli.harness import LEDGER, TILL, Ended, Running, applied, books_of, entries, work_until
from tests.unit.cli.services import ledger, till

from ensue.adapters import make_broker
from ensue.engine.witness import find_witness


def copy_database(origin: Path, copy: Path) -> None:
    """As an operator's backup does: one consistent file."""
    with closing(sqlite3.connect(origin)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def put_back(copy: Path, database: Path) -> None:
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copy(copy, database)


def until_applied(count: int) -> None:
    async def enough() -> bool:
        return await applied() >= count and await nothing_unsent()

    asyncio.run(work_until(enough, till, ledger))


async def nothing_unsent() -> bool:
    """Whether the log has all of the till's outbox. Asked of the ledger's watermark, since the relay's own lags."""
    async with books_of(till) as (store, _), books_of(ledger) as (_, books):
        known = {
            (partition.topic, partition.number): checkpoint.watermarks.get(store.source, 0)
            for partition, checkpoint in (await books.checkpoints()).items()
        }
        return all(known.get(where, 0) >= head for where, head in (await store.outbox_heads()).items())


def test_a_restored_database_is_refused_and_after_the_new_epoch_all_and_only_the_new_is_applied(
    ensue: Callable[..., Ended], run: Callable[..., Running], sell: Callable[..., None], home: Path, tmp_path: Path
) -> None:
    customers = ["ann", "bob", "cleo"]  # in both partitions
    first_life = [(customers[number % 3], number) for number in range(10)]
    sell(*first_life[:5])
    until_applied(5)
    copy_database(home / "till.db", tmp_path / "copy.db")
    sell(*first_life[5:])
    until_applied(10)
    put_back(tmp_path / "copy.db", home / "till.db")
    sell(("ann", 100), ("bob", 101))  # as far as positions go, these are the old life's sixth and seventh

    refused = run(TILL)
    assert refused.end() == 1
    assert "this database is an older copy of the one that wrote it" in refused.seen
    assert "ensue db new-epoch MODULE:till" in refused.seen
    assert "Traceback" not in refused.seen
    assert ensue("status", TILL, "--json").json["services"][0]["workers"] == []
    assert sorted(entries()) == sorted(first_life)

    sell(("cleo", 102))
    old = ensue("status", TILL, "--json").json["services"][0]["source"]
    ended = ensue("db", "new-epoch", TILL, "--yes", "--reason", "disk was lost")
    assert ended.code == 0, ended.err
    assert f"{old}: published through position 5; 3 record(s) after it are new" in ended.out
    assert "holds another life's records from position 6 on" in ended.out
    assert "never reached the log" not in ended.out
    new = ensue("status", TILL, "--json").json["services"][0]["source"]
    assert new != old
    assert f"till is {new} now" in ended.out
    [decision] = ensue("decisions", "list", TILL, "--json").json["decisions"]
    assert (decision["action"], decision["target"], decision["reason"]) == ("db new-epoch", old, "disk was lost")
    assert (decision["before"]["published_through"], decision["after"]) == (5, {"source": new})

    until_applied(13)
    found = entries()
    assert sorted(found) == sorted([*first_life, ("ann", 100), ("bob", 101), ("cleo", 102)])
    assert [amount for customer, amount in found if customer == "ann"] == [0, 3, 6, 9, 100]

    sell(("ann", 200))
    until_applied(14)
    [status] = ensue("status", LEDGER, "--json").json["services"]
    assert status["counters"]["applied"] == 14
    assert [gap for each in status["partitions"] for gap in each["gaps"]] == []
    assert entries()[-1] == ("ann", 200)


def test_a_restored_copy_that_wrote_more_than_the_old_life_had_loses_nothing(
    ensue: Callable[..., Ended], sell: Callable[..., None], home: Path, tmp_path: Path
) -> None:
    sell(("ann", 1), ("bob", 2))
    until_applied(2)
    copy_database(home / "till.db", tmp_path / "copy.db")
    sell(("ann", 3))
    until_applied(3)
    put_back(tmp_path / "copy.db", home / "till.db")
    second_life = [("cleo" if number % 2 else "ann", 100 + number) for number in range(9)]
    sell(*second_life)
    ended = ensue("db", "new-epoch", TILL, "--yes")
    assert ended.code == 0, ended.err
    assert "published through position 2; 9 record(s) after it are new" in ended.out
    until_applied(12)
    assert sorted(entries()) == sorted([("ann", 1), ("bob", 2), ("ann", 3), *second_life])


def test_a_restored_copy_that_has_written_nothing_since_gets_its_new_epoch(
    ensue: Callable[..., Ended], sell: Callable[..., None], home: Path, tmp_path: Path
) -> None:
    """Nothing of it is unsent, so the log is not searched; its tail says that the database is an old copy."""
    sell(("ann", 1))
    until_applied(1)
    with closing(sqlite3.connect(home / "till.db")) as database:
        assert database.execute("SELECT position FROM ensue_relay WHERE id LIKE '%/%'").fetchone() == (1,)
    copy_database(home / "till.db", tmp_path / "copy.db")
    sell(("ann", 2))
    until_applied(2)
    put_back(tmp_path / "copy.db", home / "till.db")
    ended = ensue("db", "new-epoch", TILL, "--yes")
    assert ended.code == 0, ended.err
    assert "holds another life's records after position 1; they stay" in ended.out
    sell(("ann", 3))
    until_applied(3)
    assert [amount for _, amount in entries()] == [1, 2, 3]


def test_a_restored_database_whose_log_is_gone_is_refused_by_what_a_subscriber_has_applied(
    ensue: Callable[..., Ended], run: Callable[..., Running], sell: Callable[..., None], home: Path, tmp_path: Path
) -> None:
    sell(("ann", 1), ("bob", 2))
    until_applied(2)
    copy_database(home / "till.db", tmp_path / "copy.db")
    sell(("ann", 3))
    until_applied(3)
    put_back(tmp_path / "copy.db", home / "till.db")
    for path in home.glob("broker.db*"):
        path.unlink()

    async def told() -> bool:
        async with books_of(till) as (store, _):
            broker = make_broker(till.settings().broker)
            await broker.open()
            try:
                return await find_witness(store, broker) is not None
            finally:
                await broker.close()

    asyncio.run(work_until(told, ledger))
    refused = run(TILL)
    assert refused.end() == 1
    assert "ledger has applied position 3 (message " in refused.seen
    assert "ensue db new-epoch MODULE:till" in refused.seen
    assert "Traceback" not in refused.seen
    sell(("ann", 100), ("bob", 101))
    ended = ensue("db", "new-epoch", TILL, "--yes")
    assert ended.code == 0, ended.err
    assert "published through position 2; 2 record(s) after it are new" in ended.out
    assert "ledger has applied position 3" in ended.out
    until_applied(5)
    assert sorted(entries()) == sorted([("ann", 1), ("bob", 2), ("ann", 3), ("ann", 100), ("bob", 101)])
