"""The same on each database and by several drivers of the application's: sync and async sessions, and who is woken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import PostgresServer
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session
from tests.sessions.desk import (
    Base,
    Ticket,
    TicketOpened,
    async_engine_at,
    async_url,
    count,
    desk_at,
    engine_at,
    made_by,
    plain_url,
    published,
    records,
    texts,
    tickets,
)
from tests.sessions.scripts import TAKEN, Script

from ensue import EngineConfig, Service, UsageError
from ensue.sessions.publisher import Publisher

SEEDS = 8
#: Longer than any test: who waits so long was not woken.
POLL_S = 100.0


@pytest.fixture
def engine(sql_database: str) -> Iterator[Engine]:
    """Of the application."""
    engine = engine_at(plain_url(sql_database))
    yield engine
    engine.dispose()


def test_random_scripts_leave_what_the_model_says(sql_database: str, engine: Engine) -> None:
    desk = desk_at(sql_database)
    with Session(engine) as session:
        session.add(Ticket(id=TAKEN))
        session.commit()
    events: list[str] = []
    rows = [TAKEN]
    for seed in range(SEEDS):
        script = Script(seed, first=1 + seed * 1000)
        with Session(engine) as session:
            script.run(desk, session)
        events += map(str, script.events)
        rows += script.rows
        assert tickets(engine) == sorted(rows), (seed, script.said)
    found = published(desk)
    # Order holds for each key, and each event here has a key of its own; within a source positions have no gaps.
    assert sorted(texts(found), key=int) == sorted(events, key=int)
    assert [each.position for each in found] == list(range(1, len(events) + 1))


def refuse(*_: object) -> None:
    raise RuntimeError("no hallmark")


async def test_async_sessions_of_all_kinds(sql_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await asyncio.to_thread(desk_at, sql_database)
    engine = async_engine_at(async_url(sql_database))
    make = async_sessionmaker(engine, expire_on_commit=False)

    def tell(session: AsyncSession | async_scoped_session[AsyncSession], number: int, said: str) -> None:
        session.add(Ticket(id=number))
        desk.publish(session, TicketOpened(ticket_id=1, text=said))

    async with make() as session:
        tell(session, 1, "commit")
        await session.commit()
        tell(session, 2, "rollback")
        await session.rollback()
        tell(session, 3, "close")
    async with make.begin() as session:
        tell(session, 4, "begin")
        async with session.begin_nested():
            tell(session, 5, "savepoint")
            inner = await session.begin_nested()
            tell(session, 6, "inner")
            await inner.rollback()
        try:
            async with session.begin_nested():
                tell(session, 1, "a row that is there")
        except IntegrityError:
            tell(session, 7, "after the refusal")
    scoped = async_scoped_session(make, asyncio.current_task)
    tell(scoped, 8, "scoped")
    await scoped.commit()
    await scoped.remove()
    async with make() as session:
        session.add(Ticket(id=TAKEN))
        await session.commit()
        script = Script(seed=1, first=1000)
        await session.run_sync(lambda plain: script.run(desk, plain))
    with monkeypatch.context() as broken:
        broken.setattr(Publisher, "hallmark", refuse)
        async with make() as session:
            event.listen(
                session.sync_session,
                "after_flush",  # so late that it is written when the connection commits
                lambda plain, _: desk.publish(plain, TicketOpened(ticket_id=9, text="refused")),
            )
            session.add(Ticket(id=9))
            with pytest.raises(RuntimeError, match="no hallmark"):
                await session.commit()
    async with make.begin() as session:  # with the same connection, in which nothing is left that it would commit
        tell(session, 10, "after a commit that failed")
    async with make() as session:
        assert await session.get(Ticket, 9) is None
    await engine.dispose()
    found = texts(await records(desk))
    own = ["commit", "begin", "savepoint", "after the refusal", "scoped", "after a commit that failed"]
    assert [each for each in found if not each.isdigit()] == own
    assert sorted(int(each) for each in found if each.isdigit()) == sorted(script.events)


async def test_async_sessions_in_a_transaction_of_their_connection(sql_database: str) -> None:
    """They have rows and events or neither: left open, closed without a commit, and whichever comes first."""
    desk = await asyncio.to_thread(desk_at, sql_database)
    engine = async_engine_at(async_url(sql_database))

    async def work(session: AsyncSession, number: int, *, rows_first: bool) -> None:
        session.add(Ticket(id=number))
        if rows_first:
            await session.flush()
        desk.publish(session, TicketOpened(ticket_id=number, text=str(number)))
        await session.flush()

    left = []
    for number, rows_first in (1, False), (2, True):
        async with engine.begin() as connection:
            session = AsyncSession(connection)
            await work(session, number, rows_first=rows_first)
            left.append(session)
    for session in left:
        await session.close()
    for number, rows_first in (3, False), (4, True):
        with pytest.raises(UsageError, match="closed without a commit"):
            async with engine.begin() as connection, AsyncSession(connection) as session:
                await work(session, number, rows_first=rows_first)
    async with engine.begin() as connection, AsyncSession(connection) as session:
        await work(session, 5, rows_first=False)
        await session.commit()
    async with engine.begin() as connection:
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await work(session, 6, rows_first=True)  # goes back with the session's own savepoint
        async with AsyncSession(connection) as session:
            session.add(Ticket(id=7))
            await session.flush()
    async with AsyncSession(engine) as session:
        assert list(await session.scalars(select(Ticket.id).order_by(Ticket.id))) == [1, 2, 5, 7]
    await engine.dispose()
    assert texts(await records(desk)) == ["1", "2", "5"]


async def test_the_relay_is_woken_by_a_commit(sql_database: str, engine: Engine) -> None:
    config = EngineConfig(poll_interval_s=POLL_S)
    desk = Service(
        "desk", database=sql_database, broker="memory:", tables=Base.metadata, publishes=[TicketOpened],
        partitions=1, engine=config,
    )  # fmt: skip

    def work() -> None:
        with Session(engine) as session:
            session.add(Ticket(id=1))
            desk.publish(session, TicketOpened(ticket_id=1, text="woken"))
            session.commit()

    async with desk.running() as runtime:
        await runtime.ready()
        await asyncio.to_thread(work)
        reader = runtime.broker.reader("desk", 0, 0)
        assert len(await reader.read(10, 20.0)) == 1
        await reader.close()


def test_ids_are_those_that_the_store_makes(sql_database: str, engine: Engine) -> None:
    """Else a restored database would not be told from a stranger's records. The first ever is made by a session."""
    desk = desk_at(sql_database)
    for number in range(20):
        with Session(engine) as session:
            desk.publish(session, TicketOpened(ticket_id=number))
            session.commit()
    assert made_by(desk) == 20


def test_steps_of_code_that_is_not_async(sql_database: str, engine: Engine) -> None:
    desk = desk_at(sql_database)

    def fails() -> None:
        with desk.sync_step() as step:
            step.session.add(Ticket(id=2))
            step.publish(TicketOpened(ticket_id=2))
            step.session.flush()
            raise ValueError("no")

    for number in (1, 3):
        with desk.sync_step() as step:
            step.session.add(Ticket(id=number))
            assert count(step.session) == (number + 1) // 2
            step.publish(TicketOpened(ticket_id=number, text=str(number)))
        with pytest.raises(ValueError, match="no"):
            fails()
    desk.close()
    assert tickets(engine) == [1, 3]
    assert texts(published(desk)) == ["1", "3"]


def test_missing_tables_are_named_with_what_makes_them(sql_database: str, engine: Engine) -> None:
    desk = Service("desk", database=sql_database, publishes=[TicketOpened])
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Ticket(id=1))
        desk.publish(session, TicketOpened(ticket_id=1))
        with pytest.raises(UsageError, match="ensue db init"):
            session.commit()
    assert tickets(engine) == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("options", ["outbox=wal", "schema=aside"])
def test_postgresql_with_its_log_and_in_a_schema(postgres_server: PostgresServer, driver: str, options: str) -> None:
    name = f"sessions_{driver}"
    postgres_server.drop(name)
    url = postgres_server.url(name, f"postgresql+{driver}")
    desk = desk_at(f"{url}?{options}")
    engine = engine_at(plain_url(url))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number in range(3):
            session.add(Ticket(id=number))
            desk.publish(session, TicketOpened(ticket_id=number, text=str(number)))
            session.commit()
        desk.publish(session, TicketOpened(ticket_id=9))
    engine.dispose()
    assert texts(published(desk)) == ["0", "1", "2"]


def test_a_session_of_another_kind_of_database_is_refused_where_it_publishes(tmp_path: Path) -> None:
    desk = Service("desk", database="postgresql://desk@localhost/desk", publishes=[TicketOpened])
    engine = engine_at(f"sqlite:///{tmp_path}/desk.db")
    with Session(engine) as session, pytest.raises(UsageError, match="one of sqlite") as raised:
        desk.publish(session, TicketOpened(ticket_id=1))
    engine.dispose()
    assert "localhost" in str(raised.value)


@pytest.mark.parametrize("url", ["redis://localhost/0", "mongodb://localhost/desk"])
def test_a_database_without_sessions_is_refused(url: str, tmp_path: Path) -> None:
    desk = Service("desk", database=url, publishes=[TicketOpened])
    engine = engine_at(f"sqlite:///{tmp_path}/desk.db")
    with Session(engine) as session, pytest.raises(UsageError, match="no sessions for"):
        desk.publish(session, TicketOpened(ticket_id=1))
    engine.dispose()
