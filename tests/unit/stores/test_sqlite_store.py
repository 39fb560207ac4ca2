"""What is particular to the SQLite store: its file, its errors, and steps that try to end their own transaction."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, ForeignKey, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue.conformance.store_suite import ACCOUNTS, METADATA, Account, check_chain, positions, record, texts
from ensue.embedded.connection import connect
from ensue.engine.books import Books
from ensue.errors import StoreOutdated, StoreUnavailable, UsageError
from ensue.ports import Capabilities
from ensue.stores.sqlite import SqliteStore, outbox
from ensue.stores.sqlite.dialect import Engines
from ensue.stores.sqlite.readers import SESSIONS_MAX, Readers
from ensue.stores.sqlite.transaction import SqliteTransaction

LIMIT_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(f"sqlite:///{path}", "orders", busy_timeout_s=0.05)
    await opened.open()
    await opened.create_tables(METADATA)
    yield opened
    await opened.close()


def raw(store: SqliteStore) -> sqlite3.Connection:
    assert store._opened is not None
    return store._opened.writer.connection


def is_there(path: Path) -> bool:
    return path.exists()


# --- the file


async def test_a_close_that_is_cancelled_while_a_step_ends_listens_no_longer(store: SqliteStore) -> None:
    assert store._opened is not None
    wakeup = store._opened.wakeup
    async with store.transaction():
        closing = asyncio.create_task(store.close())
        done, _ = await asyncio.wait({closing}, timeout=0.05)
        assert not done, "the step is open"
        closing.cancel()
        await asyncio.wait({closing})
        assert wakeup._listener is None
    await store.close()


async def test_the_source_is_the_service_and_eight_random_digits(store: SqliteStore, tmp_path: Path) -> None:
    assert re.fullmatch(r"orders/[0-9a-f]{8}", store.source)
    other = SqliteStore(f"sqlite:///{tmp_path}/other.db", "orders")
    await other.open()
    assert other.source != store.source
    await other.close()


async def test_a_file_of_another_service_is_refused(store: SqliteStore, path: Path) -> None:
    with pytest.raises(UsageError, match="'orders', not of 'customers'"):
        await SqliteStore(f"sqlite:///{path}", "customers").open()


@pytest.mark.parametrize(("version", "advice"), [(0, "migrate"), (99, "newer Ensue")])
async def test_tables_of_another_version_are_refused(store: SqliteStore, path: Path, version: int, advice: str) -> None:
    raw(store).execute("UPDATE ensue_meta SET schema_version = ?", (version,))
    with pytest.raises(StoreOutdated, match=advice):
        await SqliteStore(f"sqlite:///{path}", "orders").open()


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    await asyncio.to_thread(path.write_text, "no database, by far " * 100)
    with pytest.raises(UsageError, match=re.escape(str(path))):
        await SqliteStore(f"sqlite:///{path}", "orders").open()


async def test_the_users_tables_may_be_in_the_file_already(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    store = SqliteStore(f"sqlite:///{path}", "orders")
    assert not await store.exists()
    await store.open()
    assert await store.exists()
    await store.close()


async def test_a_store_that_is_not_open_says_so(path: Path) -> None:
    store = SqliteStore(f"sqlite:///{path}", "orders")
    with pytest.raises(UsageError, match="not open"):
        store.transaction()
    with pytest.raises(UsageError, match="not open"):
        await store.outbox_heads()
    with pytest.raises(UsageError, match="before it was opened"):
        store.source  # noqa: B018
    assert not is_there(path)


async def test_synchronous_off_does_not_claim_to_survive_a_power_cut(path: Path) -> None:
    assert SqliteStore(f"sqlite:///{path}?synchronous=OFF", "orders").capabilities == Capabilities(
        power_loss_safe=False, takes_over=True
    )
    with pytest.raises(UsageError, match="synchronous"):
        SqliteStore(f"sqlite:///{path}?synchronous=SOMETIMES", "orders")


async def test_nothing_is_left_of_a_temporary_store() -> None:
    store = SqliteStore("sqlite://", "orders")
    await store.open()
    directory = Path(store._file.directory)
    assert is_there(directory)
    await store.close()
    assert not is_there(directory)


# --- the database's own troubles


async def test_a_lock_held_for_too_long_is_store_unavailable_with_the_file(store: SqliteStore, path: Path) -> None:
    with closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=re.escape(str(path))):
            async with store.transaction():
                raise AssertionError("never begun")
        with pytest.raises(StoreUnavailable):
            async with store.transaction(upkeep=True):
                raise AssertionError("never begun")
        other.execute("ROLLBACK")
    async with store.transaction():
        pass


async def test_while_another_process_writes_the_loop_goes_on_and_the_step_waits(path: Path) -> None:
    store = SqliteStore(f"sqlite:///{path}", "orders")
    await store.open()
    with closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(_publish(store, "late"))
        for _ in range(50):
            await asyncio.sleep(0.001)  # the loop is free: this returns at all
        assert not waiting.done()
        assert await store.outbox_after(0, 1) == [], "readers wait for nobody"
        other.execute("COMMIT")
    async with asyncio.timeout(LIMIT_S):
        await waiting
    assert texts(await store.outbox_after(0, 10)) == ["late"]
    await store.close()


async def test_a_full_disk_is_store_unavailable_and_nothing_is_committed(store: SqliteStore) -> None:
    (pages,) = raw(store).execute("PRAGMA page_count").fetchone()
    raw(store).execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="disk is full"):
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            await transaction.outbox_add([record("x" * 10_000) for _ in range(100)])
    with pytest.raises(StoreUnavailable, match="disk is full"):  # also through the session
        async with store.transaction() as transaction:
            transaction.session.add_all(Account(id="x" * 1000 + str(number), balance=1) for number in range(1000))
    raw(store).execute("PRAGMA max_page_count = 1000000")
    assert await store.outbox_after(0, 10) == []
    await _publish(store, "1")
    check_chain(await store.outbox_after(0, 10))


async def test_the_users_own_errors_pass_as_they_are(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1), ("a", 2)])
    with pytest.raises(DBAPIError, match="no such table"):
        async with store.transaction() as transaction:
            await transaction.session.execute(text("SELECT * FROM nowhere"))


class _Base(DeclarativeBase):
    pass


class Parent(_Base):
    __tablename__ = "parent"
    id: Mapped[int] = mapped_column(primary_key=True)


class Child(_Base):
    __tablename__ = "child"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(ForeignKey("parent.id", deferrable=True, initially="DEFERRED"))


async def test_a_commit_that_fails_leaves_nothing_and_the_store_goes_on(store: SqliteStore) -> None:
    """A deferred foreign key is checked by COMMIT itself, which then leaves the transaction open."""
    await store.create_tables(_Base.metadata)
    with pytest.raises(sqlite3.IntegrityError):
        async with store.transaction() as transaction:
            await transaction.outbox_add([record("undone")])
            transaction.session.add(Child(id=1, parent_id=7))
    assert not raw(store).in_transaction
    await _publish(store, "1", "2")
    found = await store.outbox_after(0, 10)
    assert texts(found) == ["1", "2"]
    check_chain(found)


# --- steps that get in their own way


async def test_a_record_that_cannot_be_stored_keeps_the_step_from_committing_half(store: SqliteStore) -> None:
    bad = record()
    bad.key = None  # type: ignore[assignment]
    with pytest.raises(UsageError, match="cannot commit"):
        async with store.transaction() as transaction:
            with pytest.raises(sqlite3.IntegrityError):
                await transaction.outbox_add([record("half"), bad])
    await _publish(store, "1")
    found = await store.outbox_after(0, 10)
    assert texts(found) == ["1"]
    check_chain(found)


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
async def test_a_handler_that_ends_the_transaction_by_sql_is_told(store: SqliteStore, statement: str) -> None:
    with pytest.raises(UsageError, match=f"{statement} in the session of a step"):
        async with store.transaction() as transaction:
            await transaction.session.execute(text(statement))
    with pytest.raises(UsageError, match=f"{statement} in the session of a step"):  # also when it was caught
        async with store.transaction() as transaction:
            with contextlib.suppress(UsageError):
                await transaction.session.execute(text(statement))
            await transaction.session.execute(text("INSERT INTO conformance_account VALUES ('a', 1)"))
    async with store.transaction() as transaction:
        assert await transaction.load_rows(ACCOUNTS, ["a"]) == []


async def test_one_transaction_has_one_kind_of_session(store: SqliteStore) -> None:
    async with store.transaction() as transaction:
        transaction.session  # noqa: B018
        with pytest.raises(UsageError, match="one session"):
            transaction.sync_session()


async def test_a_row_whose_id_was_changed_is_not_lost_in_silence(store: SqliteStore) -> None:
    with pytest.raises(UsageError, match="id of a loaded entity"):
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            await transaction.update_rows(ACCOUNTS, [("b", 2)])


async def test_a_transaction_inside_another_of_its_own_task_is_refused_at_once(store: SqliteStore) -> None:
    async with store.transaction():
        with pytest.raises(UsageError, match="inside another one"):
            async with store.transaction():
                raise AssertionError("never begun")
        with pytest.raises(UsageError, match="inside another one"):
            await Books(store, "orders").save_relay_position(store.source, 3)
    await Books(store, "orders").save_relay_position(store.source, 3)


# --- what SQLAlchemy's asyncio layer wants to work


async def test_sessions_stream_run_sync_code_and_know_sqlalchemys_functions(store: SqliteStore) -> None:
    async with store.transaction() as transaction:
        session = transaction.session
        session.add_all(Account(id=f"{number:03}", balance=number) for number in range(100))
        streamed = [each.balance async for each in await session.stream_scalars(select(Account).order_by(Account.id))]
        assert streamed == list(range(100))
        assert await session.run_sync(lambda plain: plain.get_one(Account, "007").balance) == 7
        found = await session.scalars(select(Account.id).where(Account.id.regexp_match("^00[12]$")))
        assert sorted(found) == ["001", "002"]


async def test_another_isolation_level_is_refused(store: SqliteStore) -> None:
    async with store.transaction() as transaction:
        with pytest.raises(UsageError, match="serializable"):
            await transaction.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


async def test_a_reader_that_writes_is_told_where_to_write(store: SqliteStore) -> None:
    with pytest.raises(UsageError, match="a query changes nothing: open a step to write"):
        async with store.reading() as session:
            session.add(Account(id="a", balance=1))
            await session.flush()


async def test_a_change_that_a_reader_would_lose_is_refused_at_its_end(store: SqliteStore) -> None:
    async with store.transaction() as transaction:
        await transaction.insert_rows(ACCOUNTS, [("a", 1)])
    with pytest.raises(UsageError, match="a query stores nothing, and Account was added: open a step to write"):
        async with store.reading() as session:
            session.add(Account(id="b", balance=1))
    with pytest.raises(UsageError, match="Account was changed: open a step to write"):
        async with store.reading() as session:
            (await session.get_one(Account, "a")).balance = 2
    with pytest.raises(UsageError, match="Account was deleted: open a step to write"):
        async with store.reading() as session:
            await session.delete(await session.get_one(Account, "a"))
    with pytest.raises(ZeroDivisionError):
        async with store.reading() as session:
            session.add(Account(id="b", balance=1))
            raise ZeroDivisionError
    async with store.reading() as session:
        assert (await session.get_one(Account, "a")).balance == 1


async def test_a_step_that_ends_its_own_transaction_is_told_what_to_remove(store: SqliteStore) -> None:
    for method in ("commit", "rollback", "close", "begin"):
        with pytest.raises(UsageError, match=rf"when its block or handler ends: remove {method}\(\)"):
            async with store.transaction() as transaction:
                await getattr(transaction.session, method)()


async def test_a_reader_keeps_one_state_while_steps_go_on(store: SqliteStore) -> None:
    async with store.reading() as session:
        assert (await session.scalars(select(Account.id))).all() == []
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
        assert (await session.scalars(select(Account.id))).all() == []
    async with store.reading() as session:
        assert (await session.scalars(select(Account.id))).all() == ["a"]


async def test_a_thread_that_outlives_its_step_cannot_open_a_session_in_the_next_one(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    connect_plain = Engines.connect_plain

    def slow(engines: Engines) -> Connection:
        inside.set()
        assert go_on.wait(LIMIT_S)
        return connect_plain(engines)

    monkeypatch.setattr(Engines, "connect_plain", slow)

    def write(transaction: SqliteTransaction) -> None:
        transaction.sync_session().execute(text("INSERT INTO conformance_account VALUES ('late', 1)"))

    async with store.transaction() as transaction:
        late = asyncio.create_task(asyncio.to_thread(write, transaction))
        assert await asyncio.to_thread(inside.wait, LIMIT_S)
    async with store.transaction():
        go_on.set()
        with pytest.raises(UsageError, match="belongs to a step that has ended"):
            await late
    async with store.reading() as session:
        assert (await session.scalars(select(Account.id))).all() == []


@pytest.mark.parametrize("through_session", [True, False])
async def test_a_full_disk_is_the_stores_failure_where_the_statement_meets_it(
    store: SqliteStore, through_session: bool
) -> None:
    (pages,) = raw(store).execute("PRAGMA page_count").fetchone()
    raw(store).execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable):
        async with store.transaction() as transaction:
            with pytest.raises(StoreUnavailable) as caught:  # already inside of the step, where handlers run
                if through_session:
                    statement = text("INSERT INTO conformance_account VALUES (hex(zeroblob(200000)), 1)")
                    await transaction.session.execute(statement)
                else:
                    await transaction.insert_rows(ACCOUNTS, [("a" * 400_000, 1)])
            raise caught.value


async def test_each_heartbeat_says_that_the_file_was_deleted_until_it_is_back(store: SqliteStore, path: Path) -> None:
    books = Books(store, "orders")
    await books.heartbeat("one", 10.0)
    aside = path.with_name("aside.db")
    os.rename(path, aside)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"{path} was deleted or replaced .* restart"):
            await books.heartbeat("one", 10.0)
    os.rename(aside, path)
    await books.heartbeat("one", 10.0)


async def test_a_reading_that_finds_no_place_gives_up(store: SqliteStore, path: Path) -> None:
    readers = Readers(str(path), place_wait_s=0.01)
    async with AsyncExitStack() as all_places:
        for _ in range(SESSIONS_MAX):
            await all_places.enter_async_context(readers.session())
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(StoreUnavailable, match="sessions for queries"):
                async with readers.session():
                    pass
    async with readers.session() as session:
        assert (await session.scalars(select(Account.id))).all() == []
    readers.close()


# --- the outbox when it is long


async def test_a_rare_partition_is_found_in_a_long_outbox(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_WINDOW", 10)
    async with store.transaction() as transaction:
        await transaction.outbox_add([record(str(n), partition=int(n % 37 == 0)) for n in range(200)])
    last = positions(await store.outbox_after(0, 1000))[-1]
    assert texts(await store.outbox_of("orders", 1, 0, last, 100)) == ["0", "37", "74", "111", "148", "185"]
    assert texts(await store.outbox_of("orders", 1, 0, last, 2)) == ["0", "37"]
    await store.outbox_prune(2**40, 100, 1000)
    assert texts(await store.outbox_of("orders", 1, 0, last, 100)) == ["111", "148", "185"]


async def _publish(store: SqliteStore, *data: str) -> None:
    async with store.transaction() as transaction:
        await transaction.outbox_add([record(each) for each in data])
