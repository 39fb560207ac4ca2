"""A handler that ends the transaction which its message shares with others: it alone is at fault, and nobody else pays.

On every SQL store and by every driver, several messages in one transaction, the third of them at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.unit.engine.workbench import LIMIT_S, bench, letters, settled

from ensue import Event, Retry, Service, Step
from ensue.adapters import make_store
from ensue.errors import EnsueError, UsageError
from ensue.testing import World

MESSAGES = (1, 2, 3, 4, 5)
AT_FAULT = 3
KILL = {
    "postgresql+asyncpg": "SELECT pg_terminate_backend(pg_backend_pid())",
    "postgresql+psycopg": "SELECT pg_terminate_backend(pg_backend_pid())",
    "mariadb": "KILL CONNECTION_ID()",
}


class Base(DeclarativeBase): ...


class Effect(Base):
    """One row for each time that a message took effect."""

    __tablename__ = "effects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    message: Mapped[int]


class Single(Base):
    __tablename__ = "singles"
    id: Mapped[int] = mapped_column(primary_key=True)


class Asked(Event, topic="inside", key="key"):
    key: int


class Answered(Event, topic="answers", key="key"):
    key: int


Fault = Callable[[AsyncSession], Any]


def service_with(fault: Fault) -> Service:
    service = Service("answers", tables=Base.metadata, retry=Retry(attempts_max=1))

    @service.on
    async def answer(event: Asked, step: Step, session: AsyncSession) -> None:
        session.add(Effect(message=event.key))
        await session.flush()
        step.publish(Answered(key=event.key))
        if event.key == AT_FAULT:
            await fault(session)

    return service


def says(*statements: str, caught: bool) -> Fault:
    async def fault(session: AsyncSession) -> None:
        for each in statements:
            with contextlib.suppress(*([SQLAlchemyError, EnsueError] if caught else [])):
                await session.execute(text(each))

    return fault


async def insert_twice(session: AsyncSession) -> None:
    """An error of a flush that is caught, without a savepoint."""
    session.add(Single(id=1))
    await session.flush()
    session.expunge_all()
    session.add(Single(id=1))
    with contextlib.suppress(SQLAlchemyError):
        await session.flush()


FAULTS: dict[str, Fault] = {
    "rollback": says("ROLLBACK", caught=False),
    "rollback, caught": says("ROLLBACK", caught=True),
    "commit": says("/* now */ COMMIT", caught=False),
    "commit, caught": says("COMMIT", caught=True),
    "ended and begun anew": says("ROLLBACK", "BEGIN", caught=True),
    "and chain": says("COMMIT AND CHAIN", caught=True),
    "several at once": says("SELECT 1; COMMIT; BEGIN", caught=True),
    "tables made": says("CREATE TABLE made_inside (id INTEGER)", "COMMIT", caught=True),
    "tables emptied": says("TRUNCATE TABLE singles", "ROLLBACK", caught=True),
    "a flush that failed": insert_twice,
}


@asynccontextmanager
async def handled(url: str, tmp_path: Path, service: Service) -> AsyncIterator[World]:
    """All messages have been sent, and dealt with."""
    store = make_store(url, service.name)
    async with (
        asyncio.timeout(LIMIT_S * 3),
        bench(tmp_path, service, stores={service.name: store}) as world,
    ):
        async with service.step() as step:
            for key in MESSAGES:
                step.publish(Asked(key=key))
        await settled(world)
        yield world


async def effects_of(service: Service) -> list[int]:
    """Of which messages there is an effect."""
    async with service.query() as session:
        return sorted(await session.scalars(select(Effect.message)))


async def check(url: str, tmp_path: Path, fault: Fault) -> str:
    """Return why the message at fault was set aside."""
    service = service_with(fault)
    async with handled(url, tmp_path, service) as world:
        effects = await effects_of(service)
        assert effects == [each for each in MESSAGES if each != AT_FAULT]
        assert [each.key for each in await world.published(Answered)] == effects
        [letter] = await letters(world, service)
        assert letter.key == str(AT_FAULT)
        return letter.error


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_message_that_ends_the_transaction_is_set_aside_and_the_others_take_effect_once(
    sql_database: str, tmp_path: Path, fault: Fault
) -> None:
    error = await check(sql_database, tmp_path, fault)
    assert "handler answer" in error


@pytest.mark.parametrize("fault", ["rollback, caught", "a flush that failed"])
async def test_it_is_found_out_before_the_next_message_begins(sql_database: str, tmp_path: Path, fault: str) -> None:
    called: list[int] = []

    service = service_with(FAULTS[fault])

    @service.on
    async def note(event: Asked, session: AsyncSession) -> None:
        called.append(event.key)

    async with handled(sql_database, tmp_path, service) as world:
        assert [each.key for each in await letters(world, service)] == [str(AT_FAULT)]
    assert [called.count(key) for key in (1, 4, 5)] == [2, 1, 1], "all of them with it, then without it"


async def test_the_refusal_says_what_to_write_instead(sql_database: str, tmp_path: Path) -> None:
    error = await check(sql_database, tmp_path, FAULTS["commit"])
    assert "COMMIT in the session of a step" in error
    assert "a step commits when it returns" in error


async def test_a_lost_connection_whose_error_the_handler_caught(sql_database: str, tmp_path: Path) -> None:
    scheme = sql_database.partition(":")[0]
    if scheme == "sqlite":
        pytest.skip("no connection that could be lost")
    await check(sql_database, tmp_path, says(KILL[scheme], caught=True))


async def test_a_conflict_that_rolls_back_and_was_caught(tmp_path: Path) -> None:
    """SQLite: ON CONFLICT ROLLBACK. What follows would commit by itself."""

    async def fault(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO singles VALUES (1)"))
        with contextlib.suppress(SQLAlchemyError):
            await session.execute(text("INSERT OR ROLLBACK INTO singles VALUES (1)"))

    error = await check(f"sqlite:///{tmp_path}/conflict.db?synchronous=OFF", tmp_path, fault)
    assert "was ended inside of it" in error


async def test_an_error_that_was_caught_outside_of_a_savepoint_is_blamed_on_its_own_message(
    sql_database: str, tmp_path: Path
) -> None:
    """PostgreSQL takes no statement after it; the other two go on, and so does the step."""
    service = service_with(says("SELECT no_such_column FROM singles", caught=True))
    async with handled(sql_database, tmp_path, service) as world:
        keys = [each.key for each in await letters(world, service)]
        assert keys == ([str(AT_FAULT)] if sql_database.startswith("postgresql") else [])


async def test_a_savepoint_around_an_error_makes_it_harmless(sql_database: str, tmp_path: Path) -> None:
    async def fault(session: AsyncSession) -> None:
        with contextlib.suppress(SQLAlchemyError):
            async with session.begin_nested():
                await session.execute(text("SELECT no_such_column FROM singles"))

    service = service_with(fault)
    async with handled(sql_database, tmp_path, service) as world:
        assert not await letters(world, service)
        assert [each.key for each in await world.published(Answered)] == list(MESSAGES)


async def test_a_plain_session_is_refused_the_same(sql_database: str, tmp_path: Path) -> None:
    service = Service("answers", tables=Base.metadata, retry=Retry(attempts_max=1))

    @service.on
    def answer(event: Asked, session: Session) -> None:
        session.add(Effect(message=event.key))
        if event.key == AT_FAULT:
            session.execute(text("COMMIT"))

    async with handled(sql_database, tmp_path, service) as world:
        assert await effects_of(service) == [each for each in MESSAGES if each != AT_FAULT]
        [letter] = await letters(world, service)
        assert letter.key == str(AT_FAULT)


async def test_a_query_cannot_end_its_transaction_and_write_behind_it(sql_database: str, tmp_path: Path) -> None:
    service = Service("answers", tables=Base.metadata)
    store = make_store(sql_database, service.name)
    async with bench(tmp_path, service, stores={service.name: store}):
        with pytest.raises(UsageError, match="COMMIT"):
            async with service.query() as query:
                await query.execute(text("COMMIT"))
        async with service.query() as query:
            assert await query.scalar(text("SELECT count(*) FROM effects")) == 0


async def test_a_connection_that_others_cut_in_the_middle_of_a_handler_is_nobodys_fault(
    sql_database: str, tmp_path: Path
) -> None:
    if sql_database.startswith("sqlite"):
        pytest.skip("no connection that could be lost")
    postgres = sql_database.startswith("postgresql")
    cut: list[int] = []

    async def fault(session: AsyncSession) -> None:
        if cut:
            return
        cut.append(int(await session.scalar(text("SELECT pg_backend_pid()" if postgres else "SELECT CONNECTION_ID()"))))
        async with service.query() as other:
            await other.execute(text(f"SELECT pg_terminate_backend({cut[0]})" if postgres else f"KILL {cut[0]}"))

    service = service_with(fault)
    async with handled(sql_database, tmp_path, service) as world:
        assert not await letters(world, service)
        assert [each.key for each in await world.published(Answered)] == list(MESSAGES)
        assert await effects_of(service) == list(MESSAGES)
