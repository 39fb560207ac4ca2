"""What is published inside of a savepoint goes with it."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.unit.engine.workbench import LIMIT_S, bench, letters, settled

from ensue import Event, Retry, Service, Step
from ensue.adapters import make_store
from ensue.testing import World


class Base(DeclarativeBase): ...


class Seat(Base):
    __tablename__ = "seats"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Asked(Event, topic="seats", key="key"):
    key: int


class Booked(Event, topic="seat-bookings", key="seat"):
    seat: int


class GoBack(Exception):
    """Rolls a savepoint back."""


@asynccontextmanager
async def running(url: str, tmp_path: Path, service: Service) -> AsyncIterator[World]:
    store = make_store(url, service.name)
    async with asyncio.timeout(LIMIT_S * 3), bench(tmp_path, service, stores={service.name: store}) as world:
        yield world


async def booked(world: World) -> list[int]:
    await settled(world)
    return sorted(each.seat for each in await world.published(Booked))


async def test_an_event_goes_with_its_savepoint(sql_database: str, tmp_path: Path) -> None:
    service = Service("seats", tables=Base.metadata)
    async with running(sql_database, tmp_path, service) as world:
        async with service.step() as step:
            step.session.add(Seat(id=1))
        async with service.step() as step:
            step.publish(Booked(seat=9))
            with pytest.raises(IntegrityError):  # taken
                async with step.session.begin_nested():
                    step.publish(Booked(seat=1))
                    step.session.add(Seat(id=1))
            async with step.session.begin_nested():
                step.publish(Booked(seat=2))
                step.session.add(Seat(id=2))
        assert await booked(world) == [2, 9]


async def test_savepoints_within_savepoints(sql_database: str, tmp_path: Path) -> None:
    service = Service("seats", tables=Base.metadata)
    async with running(sql_database, tmp_path, service) as world:
        async with service.step() as step:
            session = step.session
            with contextlib.suppress(GoBack):
                async with session.begin_nested():
                    step.publish(Booked(seat=1))
                    async with session.begin_nested():
                        step.publish(Booked(seat=2))  # released into what is rolled back
                    raise GoBack
            async with session.begin_nested():
                step.publish(Booked(seat=3))
                with contextlib.suppress(GoBack):
                    async with session.begin_nested():
                        step.publish(Booked(seat=4))
                        raise GoBack
                step.publish(Booked(seat=5))
            await session.begin_nested()  # left open: it belongs to the step
            step.publish(Booked(seat=6))
        assert await booked(world) == [3, 5, 6]


async def test_savepoints_of_the_connection_and_by_name(sql_database: str, tmp_path: Path) -> None:
    service = Service("seats", tables=Base.metadata)
    async with running(sql_database, tmp_path, service) as world:
        async with service.step() as step:
            connection = await step.session.connection()
            nested = await connection.begin_nested()
            step.publish(Booked(seat=1))
            await nested.rollback()
            await connection.execute(text("SAVEPOINT mine"))
            step.publish(Booked(seat=2))
            await connection.execute(text("ROLLBACK TO SAVEPOINT mine"))
            step.publish(Booked(seat=3))
            await connection.execute(text("ROLLBACK TO mine"))
            step.publish(Booked(seat=4))
            await connection.execute(text("RELEASE SAVEPOINT mine"))
        assert await booked(world) == [4]


async def test_in_handlers_each_message_has_its_own(sql_database: str, tmp_path: Path) -> None:
    service = Service("seats", tables=Base.metadata)

    @service.on
    async def book(event: Asked, step: Step, session: AsyncSession) -> None:
        step.publish(Booked(seat=event.key))
        if event.key == 1:
            await session.begin_nested()  # left open: the next message's savepoints are none inside of it
        elif event.key == 2:
            with contextlib.suppress(GoBack):
                async with session.begin_nested():
                    step.publish(Booked(seat=20))
                    raise GoBack

    async with running(sql_database, tmp_path, service) as world:
        async with service.step() as step:
            for key in (1, 2, 3):
                step.publish(Asked(key=key))
        assert await booked(world) == [1, 2, 3]
        assert not await letters(world, service)


async def test_in_plain_handlers(sql_database: str, tmp_path: Path) -> None:
    service = Service("seats", tables=Base.metadata)

    @service.on
    def book(event: Asked, step: Step, session: Session) -> None:
        session.add(Seat(id=event.key))
        session.flush()
        with contextlib.suppress(IntegrityError), session.begin_nested():
            step.publish(Booked(seat=event.key))
            session.execute(text(f"INSERT INTO seats VALUES ({event.key})"))
        step.publish(Booked(seat=10 + event.key))

    async with running(sql_database, tmp_path, service) as world:
        async with service.step() as step:
            for key in (1, 2):
                step.publish(Asked(key=key))
        assert await booked(world) == [11, 12]
        assert not await letters(world, service)


async def test_a_message_cannot_go_back_to_a_savepoint_of_another_one(sql_database: str, tmp_path: Path) -> None:
    service = Service("seats", tables=Base.metadata, retry=Retry(attempts_max=1))

    @service.on
    async def book(event: Asked, step: Step, session: AsyncSession) -> None:
        if event.key == 1:
            await session.execute(text("SAVEPOINT mine"))
        session.add(Seat(id=event.key))
        await session.flush()
        step.publish(Booked(seat=event.key))
        if event.key == 3:
            await session.execute(text("ROLLBACK TO SAVEPOINT mine"))

    async with running(sql_database, tmp_path, service) as world:
        async with service.step() as step:
            for key in (1, 2, 3, 4):
                step.publish(Asked(key=key))
        assert await booked(world) == [1, 2, 4]
        assert [each.key for each in await letters(world, service)] == ["3"]
        async with service.query() as session:
            assert sorted((await session.execute(text("SELECT id FROM seats"))).scalars()) == [1, 2, 4]
