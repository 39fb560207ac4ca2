"""A step's session as SQLAlchemy's users know one: its connection, and what listens on `Session`."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.orm import Session

from ensue.adapters import make_store
from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE, Account


@pytest.fixture
async def store(sql_database: str) -> AsyncIterator[Any]:
    store = make_store(sql_database, SERVICE)
    await store.open()
    await store.create_tables(METADATA)
    yield store
    await store.close()


async def balances(store: Any) -> list[int]:
    async with store.reading() as session:
        connection = await session.connection()
        return sorted((await connection.execute(select(Account.balance))).scalars())


async def test_the_connection_of_a_session_is_sqlalchemys(store: Any) -> None:
    async with store.transaction() as step:
        connection = await step.session.connection()
        assert await step.session.connection() is connection
        await connection.execute(insert(Account).values(id="a", balance=1))
        await connection.exec_driver_sql("INSERT INTO conformance_account VALUES ('b', 2)")
        async with connection.begin_nested():
            await connection.execute(text("INSERT INTO conformance_account VALUES ('c', 3)"))
        assert await connection.scalar(text("SELECT count(*) FROM conformance_account")) == 3
        async with connection.stream(select(Account.balance).order_by(Account.id)) as result:
            assert [balance async for (balance,) in result] == [1, 2, 3]
        assert await connection.run_sync(lambda sync: sync.scalar(text("SELECT 7"))) == 7
        step.session.add(Account(id="d", balance=4))
    assert await balances(store) == [1, 2, 3, 4]


@contextmanager
def listening(*names: str) -> Iterator[list[str]]:
    """Listen on SQLAlchemy's own class, as users do; what is heard is given."""
    heard: list[str] = []
    listeners: list[tuple[str, Any]] = []

    def listener(name: str) -> Any:
        return lambda *_: heard.append(name)

    for name in names:
        listeners.append((name, listener(name)))
        event.listen(Session, *listeners[-1])
    try:
        yield heard
    finally:
        for name, each in listeners:
            event.remove(Session, name, each)


ALL = (
    "after_begin", "before_flush", "after_flush", "before_commit", "after_commit", "after_rollback", "do_orm_execute",
)  # fmt: skip


async def test_listeners_hear_of_a_step_what_they_hear_of_any_session(store: Any) -> None:
    with listening(*ALL) as heard:
        async with store.transaction() as step:
            step.session.add(Account(id="a", balance=1))
            await step.session.scalars(select(Account))
    assert heard == [
        "do_orm_execute", "before_flush", "after_begin", "after_flush", "before_commit", "after_commit",
    ]  # fmt: skip


async def test_listeners_hear_of_a_plain_session_too(store: Any) -> None:
    def add(session: Session) -> None:
        session.add(Account(id="a", balance=1))
        session.flush()

    with listening(*ALL) as heard:
        async with store.transaction() as step:
            await asyncio.to_thread(add, step.sync_session())
    assert heard == ["before_flush", "after_begin", "after_flush", "before_commit", "after_commit"]


async def test_listeners_hear_of_a_step_that_is_rolled_back(store: Any) -> None:
    names = ("before_commit", "after_commit", "after_rollback")
    with listening(*names) as heard, pytest.raises(ValueError, match="of the handler"):
        async with store.transaction() as step:
            step.session.add(Account(id="a", balance=1))
            raise ValueError("of the handler")
    assert heard == ["after_rollback"]
    assert await balances(store) == []


async def test_what_a_listener_adds_before_the_commit_is_part_of_the_step(store: Any) -> None:
    def add(session: Session) -> None:
        session.add(Account(id="z", balance=26))
        session.execute(insert(Account).values(id="y", balance=25))

    event.listen(Session, "before_commit", add)
    try:
        async with store.transaction() as step:
            step.session.add(Account(id="a", balance=1))
    finally:
        event.remove(Session, "before_commit", add)
    assert await balances(store) == [1, 25, 26]


async def test_a_listener_that_fails_before_the_commit_undoes_the_step(store: Any) -> None:
    def fail(session: Session) -> None:
        raise ValueError("not like this")

    event.listen(Session, "before_commit", fail)
    try:
        with pytest.raises(ValueError, match="not like this"):
            async with store.transaction() as step:
                step.session.add(Account(id="a", balance=1))
    finally:
        event.remove(Session, "before_commit", fail)
    assert await balances(store) == []


async def test_a_listener_that_fails_after_the_end_is_logged_and_the_end_stays_what_it_was(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(session: Session) -> None:
        raise ValueError("too late")

    for name in ("after_commit", "after_rollback"):
        event.listen(Session, name, fail)
    try:
        async with store.transaction() as step:
            step.session.add(Account(id="a", balance=1))
        with pytest.raises(KeyError, match="of the step"):
            async with store.transaction() as step:
                step.session.add(Account(id="c", balance=3))
                raise KeyError("of the step")
    finally:
        for name in ("after_commit", "after_rollback"):
            event.remove(Session, name, fail)
    told = [each.getMessage().split()[3] for each in caplog.records if "a listener" in each.getMessage()]
    assert told == ["after_commit", "after_rollback"]
    assert "too late" in caplog.text
    async with store.transaction() as step:
        await step.insert_rows(ACCOUNTS, [("b", 2)])
    assert await balances(store) == [1, 2]
