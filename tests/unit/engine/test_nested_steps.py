"""A step inside a handler, or inside another step, would commit by itself: it is refused, on every store alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.unit.engine.workbench import LIMIT_S, bench, letters, settled

from ensue import Event, Retry, Service
from ensue.adapters import make_store
from ensue.engine import nesting
from ensue.errors import UsageError
from ensue.origin import Origin, coming_from


class Base(DeclarativeBase): ...


class Row(Base):
    __tablename__ = "rows_of_steps"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)


class Asked(Event, topic="nested", key="key"):
    key: int


class Extra(Event, topic="inner", key="key"):
    key: int


async def handled(
    tmp_path: Path, url: str, make_handler: Callable[[Service, Service], Callable[[Asked], Awaitable[None]]]
) -> tuple[list[str], int, list[int]]:
    """Run a handler of one message; return why it was set aside, how many rows there are, and what was published."""
    service = Service("answers", tables=Base.metadata, retry=Retry(attempts_max=3, first_delay_s=0.001))
    other = Service("others", tables=Base.metadata)
    service.on(make_handler(service, other))
    stores = {service.name: make_store(url, service.name)}
    async with asyncio.timeout(LIMIT_S * 3), bench(tmp_path, service, other, stores=stores) as world:
        async with service.step() as step:
            step.publish(Asked(key=1))
        await settled(world)
        rows = 0
        for each in (service, other):
            async with each.query() as session:
                rows += len((await session.scalars(select(Row))).all())
        errors = [each.error for each in await letters(world, service)]
        return errors, rows, [each.key for each in await world.published(Extra)]


async def test_a_step_inside_a_handler_of_the_same_service_is_refused(sql_database: str, tmp_path: Path) -> None:
    def make_handler(service: Service, other: Service) -> Callable[[Asked], Awaitable[None]]:
        async def handle(event: Asked) -> None:
            async with service.step() as inner:
                inner.session.add(Row())
                inner.publish(Extra(key=1))

        return handle

    [error], rows, published = await handled(tmp_path, sql_database, make_handler)
    assert "Use the handler's own step, a parameter annotated `step: Step`" in error
    assert (rows, published) == (0, [])


async def test_a_task_that_a_handler_waits_for_is_refused_a_step_as_well(
    sql_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nesting, "WAIT_S", 0.1)

    def make_handler(service: Service, other: Service) -> Callable[[Asked], Awaitable[None]]:
        async def inner() -> None:
            async with service.step() as step:
                step.session.add(Row())

        async def handle(event: Asked) -> None:
            await asyncio.gather(inner())

        return handle

    [error], rows, _ = await handled(tmp_path, sql_database, make_handler)
    assert "by a task that has waited 0.1 s for its end" in error
    assert rows == 0


async def test_a_task_that_outlives_the_handler_gets_its_step_after_it(sql_database: str, tmp_path: Path) -> None:
    service = Service("answers", tables=Base.metadata)
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        async with service.step() as step:
            step.publish(Extra(key=1))

    @service.on
    async def handle(event: Asked) -> None:
        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(0)

    stores = {service.name: make_store(sql_database, service.name)}
    async with asyncio.timeout(LIMIT_S * 3), bench(tmp_path, service, stores=stores) as world:
        async with service.step() as step:
            step.publish(Asked(key=1))
        await settled(world)
        await asyncio.gather(*tasks)
        await settled(world)
        assert len(await world.published(Extra)) == len(tasks) == 1
        assert not await letters(world, service)


async def test_a_step_of_another_service_inside_a_handler_is_refused(tmp_path: Path) -> None:
    def make_handler(service: Service, other: Service) -> Callable[[Asked], Awaitable[None]]:
        async def handle(event: Asked) -> None:
            async with other.step() as inner:
                inner.session.add(Row())

        return handle

    [error], rows, _ = await handled(tmp_path, f"sqlite:///{tmp_path}/answers.db", make_handler)
    assert "Publish an event that others handles" in error
    assert rows == 0


async def test_a_request_to_another_service_may_be_answered_in_the_same_process(tmp_path: Path) -> None:
    """A handler that asks over HTTP does not know where the answer is made, and knows that it may ask twice."""

    def make_handler(service: Service, other: Service) -> Callable[[Asked], Awaitable[None]]:
        async def handle(event: Asked) -> None:
            with coming_from(Origin()):
                async with other.step() as inner:
                    inner.session.add(Row())

        return handle

    errors, rows, _ = await handled(tmp_path, f"sqlite:///{tmp_path}/answers.db", make_handler)
    assert (errors, rows) == ([], 1)


async def test_a_step_inside_another_one_is_refused(sql_database: str, tmp_path: Path) -> None:
    service = Service("answers", tables=Base.metadata)
    stores = {service.name: make_store(sql_database, service.name)}
    async with bench(tmp_path, service, stores=stores):
        async with service.step() as outer:
            with pytest.raises(UsageError, match="Use the step that is open"):
                async with service.step():
                    pass
            outer.session.add(Row())
        async with service.query() as session:
            assert await session.scalar(text("SELECT count(*) FROM rows_of_steps")) == 1


async def test_a_query_inside_a_step_stays_possible(sql_database: str, tmp_path: Path) -> None:
    service = Service("answers", tables=Base.metadata)
    stores: dict[str, Any] = {service.name: make_store(sql_database, service.name)}
    async with bench(tmp_path, service, stores=stores), service.step() as outer:
        outer.session.add(Row())
        await outer.session.flush()
        async with service.query() as session:
            assert await session.scalar(text("SELECT count(*) FROM rows_of_steps")) == 0
