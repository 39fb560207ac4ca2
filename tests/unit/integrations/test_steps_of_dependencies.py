"""A step that a dependency of the user's own opens: its request is answered after the commit, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Service, Step, UsageError
from ensue.integrations.fastapi import install

LIMIT_S = 30.0


class Base(DeclarativeBase): ...


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None]


@asynccontextmanager
async def asked(
    declare: Callable[[FastAPI, Service], Any], *, raises: bool = False
) -> AsyncIterator[tuple[AsyncClient, Service]]:
    service = Service("lines", tables=Base.metadata, database="sqlite://", broker="memory://")
    app = FastAPI()
    install(app, service)
    declare(app, service)
    async with (
        asyncio.timeout(LIMIT_S), app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app, raise_app_exceptions=raises), base_url="http://test") as client,
    ):  # fmt: skip
        yield client, service


async def lines(service: Service) -> int:
    async with service.query() as session:
        return int(await session.scalar(text("SELECT count(*) FROM lines")) or 0)


def with_a_step_in_scope(scope: Literal["function", "request"] | None) -> Callable[[FastAPI, Service], Any]:
    def declare(app: FastAPI, service: Service) -> Any:
        async def my_step() -> AsyncIterator[Step]:
            async with service.step() as step:
                yield step

        @app.post("/lines/{number}")
        async def add(number: int, step: Step = Depends(my_step, scope=scope)) -> int:
            step.session.add(Line(id=number))
            return number

    return declare


async def test_in_function_scope_no_answer_comes_before_the_commit() -> None:
    async with asked(with_a_step_in_scope("function")) as (client, service):
        assert (await client.post("/lines/1")).status_code == 200
        assert await lines(service) == 1
        assert (await client.post("/lines/1")).status_code == 500  # it is there: the commit fails
        assert await lines(service) == 1


@pytest.mark.parametrize("scope", ["request", None])
async def test_in_another_scope_the_request_is_refused_and_nothing_commits(scope: Literal["request"] | None) -> None:
    async with asked(with_a_step_in_scope(scope)) as (client, service):
        assert (await client.post("/lines/1")).status_code == 500
        assert await lines(service) == 0


async def test_the_refusal_names_the_request_and_says_what_to_write() -> None:
    async with asked(with_a_step_in_scope(None), raises=True) as (client, _):
        with pytest.raises(UsageError, match=r'POST /lines/1: a step of lines is open.*scope="function"'):
            await client.post("/lines/1")


async def test_steps_that_the_route_opens_or_a_task_of_it_are_answered() -> None:
    tasks: list[asyncio.Task[None]] = []
    go_on = asyncio.Event()

    def declare(app: FastAPI, service: Service) -> Any:
        async def later() -> None:
            async with service.step() as step:
                step.session.add(Line(id=2))
                await go_on.wait()

        @app.post("/lines")
        async def add() -> int:
            async with service.step() as step:
                step.session.add(Line(id=1))
            tasks.append(asyncio.create_task(later()))
            await asyncio.sleep(0)
            return 1

    async with asked(declare) as (client, service):
        assert (await client.post("/lines")).status_code == 200
        go_on.set()
        await asyncio.gather(*tasks)
        assert await lines(service) == 2


async def test_an_error_of_the_route_stays_its_own() -> None:
    def declare(app: FastAPI, service: Service) -> Any:
        async def my_step() -> AsyncIterator[Step]:
            async with service.step() as step:
                yield step

        @app.post("/lines")
        async def add(step: Step = Depends(my_step)) -> None:
            raise TypeError("of the route")

    async with asked(declare, raises=True) as (client, service):
        with pytest.raises(TypeError, match="of the route"):
            await client.post("/lines")
        assert await lines(service) == 0
