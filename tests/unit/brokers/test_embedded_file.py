"""The file under the embedded broker: damage, locks, cancels, plans, and the way back to disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.brokers.opened import with_topic

from ensue.brokers import embedded_sql as sql
from ensue.brokers.embedded import PRUNE_ROWS, EmbeddedBroker
from ensue.brokers.embedded_rows import READ_BYTES_MAX
from ensue.conformance.broker import SOURCE, TOPIC, entries, entry, positions, read
from ensue.embedded import write_ahead
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Garbage, Message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


def opened(path: Path, options: str = "", **arguments: Any) -> AbstractAsyncContextManager[EmbeddedBroker]:
    return with_topic(EmbeddedBroker(f"sqlite:///{path}{options}", **arguments), 2)


def execute(path: Path, statement: str, *parameters: object) -> list[Any]:
    """As a person does with the sqlite3 shell."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


def size(path: Path) -> int:
    return path.stat().st_size


# --- which file


async def test_synchronous_is_an_option_and_a_capability() -> None:
    assert not EmbeddedBroker("sqlite:///a.db").capabilities.power_loss_safe
    assert not EmbeddedBroker("sqlite:///a.db?synchronous=normal").capabilities.power_loss_safe
    assert EmbeddedBroker("sqlite:///a.db?synchronous=full").capabilities.power_loss_safe


async def test_a_log_in_memory_has_a_url_of_its_own() -> None:
    with pytest.raises(UsageError, match='write the URL "memory:"'):
        EmbeddedBroker("sqlite:///:memory:")


async def test_somebody_elses_database_is_refused_and_left_alone(path: Path) -> None:
    execute(path, "CREATE TABLE log (line TEXT)")
    broker = EmbeddedBroker(f"sqlite:///{path}")
    with pytest.raises(UsageError, match="a database of something else"):
        await broker.open()
    await broker.close()
    assert execute(path, "SELECT name FROM sqlite_master") == [("log",)]


async def test_tables_of_another_version_are_refused(path: Path) -> None:
    async with opened(path):
        pass
    execute(path, "PRAGMA user_version = 7")
    broker = EmbeddedBroker(f"sqlite:///{path}")
    with pytest.raises(UsageError, match="version 7, expected 1"):
        await broker.open()
    await broker.close()


async def test_a_file_removed_while_closed_begins_anew(path: Path) -> None:
    broker = EmbeddedBroker(f"sqlite:///{path}")
    for topic, partitions in ((TOPIC, 2), ("other", 3), (TOPIC, 4)):
        await broker.open()
        await broker.ensure_topic(topic, partitions)
        assert await broker.append(topic, 1, SOURCE, entries(1, 3)) == 3
        assert dict(await broker.topics()) == {topic: partitions}
        await broker.close()
        os.unlink(path)


async def test_closing_leaves_one_file(path: Path) -> None:
    async with opened(path) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 10))
        assert len(os.listdir(path.parent)) == 3
    assert os.listdir(path.parent) == [path.name]


async def test_a_person_can_look_at_the_log(path: Path) -> None:
    async with opened(path) as broker:
        await broker.append(TOPIC, 1, SOURCE, entries(1, 2))
        assert execute(path, "SELECT topic, partition, offset, key, position FROM records") == [
            (TOPIC, 1, 1, "key", 1),
            (TOPIC, 1, 2, "key", 2),
        ]


# --- damage


@pytest.mark.parametrize(
    "change",
    ["envelope = x'ff00'", "envelope = ''", "envelope = '{\"id\": 7}'", "key = CAST(x'ff41' AS TEXT)"],
)
async def test_a_damaged_record_comes_as_garbage_among_the_others(path: Path, change: str) -> None:
    async with opened(path) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        # CAST: the shell would write text, the column takes bytes.
        change = change.replace("''", "x''").replace("'{\"id\": 7}'", "CAST('{\"id\": 7}' AS BLOB)")
        execute(path, f"UPDATE log SET {change} WHERE position = 2")
        for _ in range(2):
            first, damaged, last = await read(broker, TOPIC, 0, 0, 10, 0.0)
            assert positions([first, last]) == [1, 3]
            assert isinstance(damaged, Garbage)
            assert (damaged.offset, damaged.data) == (2, b'{"n":2}')
            assert damaged.reason


async def test_a_hole_in_the_log_is_read_over_with_the_offsets_that_are_there(path: Path) -> None:
    async with opened(path) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 5))
        execute(path, "DELETE FROM log WHERE position IN (3, 5)")
        assert positions(await read(broker, TOPIC, 0, 0, 10, 0.0)) == [1, 2, 4]
        assert tuple(await broker.bounds(TOPIC, 0)) == (1, 5)
        assert await broker.append(TOPIC, 0, SOURCE, entries(6, 1)) == 6


async def test_a_damaged_file_is_reported_as_the_operators_affair(path: Path) -> None:
    async with opened(path) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1000))
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xaa" * 200 * 4096)
    broker = EmbeddedBroker(f"sqlite:///{path}")
    await broker.open()
    with pytest.raises(UsageError, match="Restore it from a backup"):
        await read(broker, TOPIC, 0, 0, 1000, 0.0)
    await broker.close()


# --- locks and cancels


async def test_an_append_waits_for_a_lock_and_the_event_loop_goes_on(path: Path) -> None:
    async with opened(path) as broker:
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            appending = asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(1, 3)))
            for _ in range(10):
                await asyncio.sleep(0.001)
                assert not await read(broker, TOPIC, 0, 0, 10, 0.0)
            assert not appending.done()
            holder.execute("COMMIT")
        async with asyncio.timeout(10):
            assert await appending == 3


async def test_an_append_cancelled_while_it_waits_for_a_lock_leaves_nothing_open(path: Path) -> None:
    async with opened(path) as broker:
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            appending = asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(1, 3)))
            await asyncio.sleep(0.001)
            appending.cancel()
            await asyncio.wait((appending,))
            holder.execute("COMMIT")
            holder.execute("BEGIN IMMEDIATE")  # the broker holds no lock
            holder.execute("COMMIT")
        assert await broker.append(TOPIC, 0, SOURCE, entries(1, 3)) == 3


async def test_an_append_cancelled_during_its_commit_is_whole_and_closes_its_transaction(path: Path) -> None:
    async with opened(path, "?synchronous=FULL") as broker:
        reading = asyncio.create_task(read(broker, TOPIC, 0, 0, 10, 60.0))
        appending = asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(1, 3)))
        await asyncio.sleep(0)
        assert not appending.done()  # in the thread that syncs
        appending.cancel()
        appending.cancel()
        await asyncio.wait((appending,))
        assert appending.cancelled()
        async with asyncio.timeout(10):
            assert positions(await reading) == [1, 2, 3]
        assert await broker.append(TOPIC, 0, SOURCE, entries(4, 1)) == 4


async def test_closing_waits_for_an_append_that_is_under_way(path: Path) -> None:
    async with opened(path, "?synchronous=FULL") as broker:
        appending = [asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(1 + n, 1))) for n in range(3)]
        await asyncio.sleep(0)
        await broker.close()
        outcomes = await asyncio.gather(*appending, return_exceptions=True)
    assert outcomes[0] == 1
    assert all(isinstance(outcome, BrokerUnavailable | int) for outcome in outcomes)
    async with opened(path) as broker:
        assert (await broker.bounds(TOPIC, 0)).last == sum(isinstance(outcome, int) for outcome in outcomes)


async def test_a_full_disk_is_an_error_that_is_tried_again(path: Path) -> None:
    async with opened(path) as broker:
        writer = broker._file._writer
        assert writer is not None
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(BrokerUnavailable, match="disk is full"):
            await broker.append(TOPIC, 0, SOURCE, [entry(n, data=b"x" * 10_000) for n in range(1, 10)])
        assert not await read(broker, TOPIC, 0, 0, 10, 0.0)
        writer.execute("PRAGMA max_page_count = 1000000")
        assert await broker.append(TOPIC, 0, SOURCE, entries(1, 3)) == 3


async def test_an_unknown_topic_or_partition_is_named(path: Path) -> None:
    async with opened(path) as broker:
        with pytest.raises(UsageError, match="there is no topic nothing"):
            await read(broker, "nothing", 0, 0, 1, 0.0)
        with pytest.raises(UsageError, match="no partition 2, expected 0 to 1"):
            await broker.append(TOPIC, 2, SOURCE, entries(1, 1))
        with pytest.raises(UsageError, match="at least 1"):
            await broker.ensure_topic("none", 0)


# --- size


async def test_a_read_of_big_records_ends_before_it_fills_the_memory(path: Path) -> None:
    big = READ_BYTES_MAX // 4
    async with opened(path) as broker:
        for position in range(1, 11):
            await broker.append(TOPIC, 0, SOURCE, [entry(position, data=b"x" * big)])
        after, seen = 0, []
        while batch := await read(broker, TOPIC, 0, after, 500, 0.0):
            assert sum(len(each.data) for each in batch) <= READ_BYTES_MAX + big
            seen += positions(batch)
            after = batch[-1].offset
        assert seen == list(range(1, 11))


async def test_the_write_ahead_log_is_copied_and_begun_again_while_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead, "COPY_PAGES", 50)
    wal = path.with_name("broker.db-wal")
    async with opened(path) as broker:
        reading = asyncio.create_task(read(broker, TOPIC, 1, 0, 10, 60.0))  # waits, and must hold nothing back
        for round_ in range(200):
            await broker.append(TOPIC, 0, SOURCE, [entry(round_ + 1, data=b"x" * 20_000)])
            await read(broker, TOPIC, 0, round_, 10, 0.0)
        assert size(path) > 3_000_000
        assert size(wal) < 1_000_000
        reading.cancel()
        await asyncio.wait((reading,))


async def test_retention_goes_by_the_time_of_the_append_in_small_transactions(path: Path) -> None:
    now = 1000.0
    async with opened(path, now=lambda: now) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 2 * PRUNE_ROWS + 10))
        now = 2000.0
        await broker.append(TOPIC, 0, SOURCE, entries(5000, 1))
        assert await broker.prune(TOPIC, 0, 1000.0, 10_000) == 0
        assert await broker.prune(TOPIC, 0, 1500.0, PRUNE_ROWS + 5) == PRUNE_ROWS + 5
        assert await broker.prune(TOPIC, 0, 1500.0, 10_000) == PRUNE_ROWS + 5
        [left] = await read(broker, TOPIC, 0, 0, 10, 0.0)
        assert isinstance(left, Message)
        assert left.position == 5000


@pytest.mark.parametrize("name", ["READ", "BOUNDS", "OLDEST", "PRUNE", "PARTITION_IDS", "TAKE_OFFSETS"])
async def test_no_statement_looks_through_the_whole_table(path: Path, name: str) -> None:
    """Plans, not times: each statement finds its rows by key, so a million records cost what ten do."""
    statement = getattr(sql, name)
    async with opened(path) as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 100))
        parameters = (1,) * statement.count("?")
        plan = [row[3] for row in execute(path, f"EXPLAIN QUERY PLAN {statement}", *parameters)]
    assert any(line.startswith("SEARCH") for line in plan), plan
    assert not [line for line in plan if line.startswith("SCAN") and "CONSTANT ROW" not in line], plan
    assert not [line for line in plan if "TEMP B-TREE" in line], plan


def replace(path: Path, content: bytes) -> None:
    for each in path.parent.iterdir():
        each.unlink()
    path.write_bytes(content)


async def test_a_broker_whose_opening_anew_failed_goes_on_when_the_file_is_repaired(path: Path) -> None:
    async with opened(path) as broker:
        replace(path, b"a copy that is not done yet" * 100)
        for _ in range(2):
            with pytest.raises(UsageError, match="damaged or no SQLite database"):
                await broker.ensure_topic(TOPIC, 2)
        replace(path, b"")
        await broker.ensure_topic(TOPIC, 2)
        assert await broker.append(TOPIC, 0, SOURCE, entries(1, 1)) is not None
