"""The engine's books, and what counts as quiet, on databases with Ensue's own tables."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ensue.message import Counters
from ensue.stores.sqlite import schema
from shop.demo.books import read_books, read_live
from shop.demo.checks import check_engine
from shop.demo.databases import Databases, database_at, embedded
from shop.demo.quiet import NotQuiet, unfinished, wait_until_quiet
from shop.demo.services import SERVICES, SUBSCRIBES, VERSION, VIEW

EVENTS = {"orders": 6, "customers": 4, "order_history": 0}
CHECKPOINT = "INSERT INTO ensue_checkpoint VALUES (?, 9, 1, ?)"
MARK = """UPDATE ensue_checkpoint SET state = json_set(state, '$.watermarks."{source}"', {position})"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """All quiet: each event of EVENTS published to partition 0 and applied by whoever reads its topic."""
    for service in SERVICES:
        with closing(sqlite3.connect(file(tmp_path, service))) as database, database:
            schema.create(database, service)
            database.execute("CREATE TABLE orders (order_id TEXT, status TEXT)")
            for position in range(1, EVENTS[service] + 1):
                row = (position, position - 1, service, 0, "key", b"{}", b"{}", 0.0)
                database.execute("INSERT INTO ensue_outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            if EVENTS[service]:
                database.execute("INSERT INTO ensue_outbox_head VALUES (?, 0, ?)", (service, EVENTS[service]))
    for service in SERVICES:
        for topic in SUBSCRIBES[service]:
            counters = {"applied": EVENTS[topic] - 1, "unknown": 1, "duplicates": 2, "gaps_seen": 1, "gaps_healed": 1}
            watermarks = {source_of(tmp_path, topic): EVENTS[topic]}
            state = {"watermarks": watermarks, "gaps": {}, "counters": counters, "letters": 0}
            write(tmp_path, service, CHECKPOINT, f"{topic}/0", json.dumps(state))
    return tmp_path


def file(directory: Path, service: str) -> Path:
    return directory / (f"{VIEW}_v{VERSION}.db" if service == VIEW else f"{service}.db")


def write(directory: Path, service: str, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file(directory, service))) as database, database:
        database.execute(statement, values)


def source_of(directory: Path, service: str) -> str:
    with closing(sqlite3.connect(file(directory, service))) as database:
        return schema.identity(database).source


def test_quiet_databases_are_quiet_and_their_books_hold(directory: Path) -> None:
    books = read_books(embedded(directory))
    assert books.published == {"orders": 6, "customers": 4}
    assert [(each.subscriber, each.topic, each.watermark) for each in books.streams] == [
        ("orders", "customers", 4), ("customers", "orders", 6),
        ("order_history", "orders", 6), ("order_history", "customers", 4),
    ]  # fmt: skip
    history = books.traffic[2]
    assert (history.applied, history.unknown, history.duplicates, history.gaps_healed) == (8, 2, 4, 2)
    assert unfinished(books) == []
    assert all(each.holds for each in check_engine(books.streams, books.traffic, books.published))
    asyncio.run(wait_until_quiet(embedded(directory), patience_s=5.0))


@pytest.mark.parametrize(
    ("service", "statement", "said"),
    [
        ("customers", MARK.replace("{position}", "5"), r"customers is at position 5 of 6 in orders/0"),
        (
            "orders",
            "UPDATE ensue_checkpoint SET state = json_set(state, '$.watermarks', json_object())",
            r"orders is at position 0 of 4 in customers/0",
        ),
        (
            "orders",
            "UPDATE ensue_checkpoint SET state = json_set(state, '$.gaps', json_object('{source}', 1))",
            r"and has an open gap",
        ),
        (
            "order_history",
            "INSERT INTO ensue_dead_letter VALUES "
            "('orders/0:1', 'orders/0', 1, 'retrying', 1, 1, x'73', 1, 0, x'6b', x'', x'', 1, 0.0, '', '', 0.0)",
            r"order_history has 1 messages set aside",
        ),
    ],
)
async def test_whatever_is_unfinished_is_named_and_quiet_is_not_waited_for_for_ever(
    directory: Path, service: str, statement: str, said: str
) -> None:
    [read] = SUBSCRIBES[service][:1]
    write(directory, service, statement.format(source=source_of(directory, read)))
    with pytest.raises(NotQuiet, match=said):
        await wait_until_quiet(embedded(directory), patience_s=0.2, interval_s=0.05)


async def test_waiting_ends_when_the_last_subscriber_has_caught_up(directory: Path) -> None:
    source = source_of(directory, "orders")
    write(directory, "customers", MARK.format(source=source, position=5))
    waiting = asyncio.create_task(wait_until_quiet(embedded(directory), interval_s=0.01))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    write(directory, "customers", MARK.format(source=source, position=6))
    await asyncio.wait_for(waiting, 10)


def test_live_counts_say_how_far_each_service_is_behind(directory: Path) -> None:
    write(directory, "orders", "INSERT INTO orders VALUES ('a', 'NEW'), ('b', 'OPEN'), ('c', 'OPEN')")
    write(
        directory,
        "order_history",
        "UPDATE ensue_checkpoint SET state = json_set(state, '$.counters', json_object('applied', 3))",
    )
    live = read_live(embedded(directory))
    assert live.statuses == {"NEW": 1, "OPEN": 2}
    assert (live.published, live.lag) == (10, {"orders": 0, "customers": 0, "order_history": 4})


def test_counters_are_read_by_the_names_the_engine_stores_them_with() -> None:
    assert {"applied", "unknown", "duplicates", "gaps_seen", "gaps_healed", "retries"} <= set(
        Counters.__struct_fields__
    )


def by_orchestration(directory: Path) -> Databases:
    """The same with payments, whose database has no more than Ensue's tables."""
    with closing(sqlite3.connect(directory / "payments.db")) as database, database:
        schema.create(database, "payments")
    watermarks = {source_of(directory, "orders"): EVENTS["orders"]}
    state = {"watermarks": watermarks, "gaps": {}, "counters": {"unknown": EVENTS["orders"]}, "letters": 0}
    write(directory, "payments", CHECKPOINT, "orders/0", json.dumps(state))
    return {**embedded(directory), "payments": database_at("payments", f"sqlite:///{directory}/payments.db")}


def begin_saga(directory: Path, status: str) -> None:
    """A row, of which nothing is read but its status."""
    with closing(sqlite3.connect(directory / "payments.db")) as database, database:
        columns = [(name, kind) for _, name, kind, *_ in database.execute("PRAGMA table_info(ensue_saga)")]
        empty: dict[str, object] = {"TEXT": "", "BLOB": b""}
        values = [status if name == "status" else empty.get(kind, 0) for name, kind in columns]
        places = ", ".join("?" * len(values))
        database.execute(f"INSERT INTO ensue_saga VALUES ({places})", values)


@pytest.mark.parametrize(("status", "alive"), [("RUNNING", True), ("PARKED", True), ("COMPLETED", False)])
def test_a_saga_that_has_not_ended_is_not_quiet(status: str, alive: bool, directory: Path) -> None:
    databases = by_orchestration(directory)
    begin_saga(directory, status)
    books = read_books(databases)
    assert books.sagas["payments"] == {status: 1}
    assert unfinished(books) == ([f"payments has 1 sagas that are {status}"] if alive else [])


async def test_by_orchestration_the_events_of_each_topic_are_counted(directory: Path) -> None:
    databases = by_orchestration(directory)
    await wait_until_quiet(databases, {"orders": 6, "customers": 4}, patience_s=5.0, interval_s=0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await wait_until_quiet(databases, {"orders": 7}, interval_s=0.01)


def test_by_orchestration_what_waits_for_a_service_is_seen(directory: Path) -> None:
    databases = by_orchestration(directory)
    assert set(read_live(databases).lag.values()) == {0}
    write(directory, "orders", "INSERT INTO ensue_outbox_head VALUES ('payments.commands', 0, 7)")
    assert read_live(databases).lag == {"orders": 0, "customers": 0, "order_history": 0, "payments": 1}
    assert "payments is at position 0 of 7 in payments.commands/0" in " ".join(unfinished(read_books(databases)))
