"""Which answers commit the step of their request, and what an answer knows of the rows that it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import String, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import ensue.testing
from ensue import Event, Service, Step
from ensue.adapters import make_store
from ensue.integrations.fastapi import install, step_of


class Base(DeclarativeBase): ...


class Row(Base):
    __tablename__ = "rows_of_answers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    size: Mapped[int] = mapped_column(server_default=text("7"))


class RowView(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str
    size: int


class RowAdded(Event, topic="rows-added", key="name"):
    name: str


class Refused(Exception): ...


service = Service("rows", tables=Base.metadata, publishes=[RowAdded])
RowsStep = Annotated[Step, step_of(service)]
done_later: list[int] = []


def add(step: Step) -> Row:
    row = Row(name="x")
    step.session.add(row)
    step.publish(RowAdded(name="x"))
    return row


def make_app() -> FastAPI:
    app = FastAPI()
    install(app, service)

    @app.exception_handler(Refused)
    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"of": "the user's handler"}, 200)

    @app.post("/returned/{status}")
    async def returned(status: int, step: RowsStep) -> JSONResponse:
        add(step)
        return JSONResponse({}, status)

    @app.post("/said/{status}")
    async def said(status: int, response: Response, step: RowsStep) -> None:
        add(step)
        response.status_code = status

    @app.post("/streamed/{status}")
    async def streamed(status: int, step: RowsStep) -> StreamingResponse:
        async def content() -> AsyncIterator[bytes]:
            done_later.append(await count())
            yield b"x"

        add(step)
        return StreamingResponse(content(), status)

    @app.post("/generated")
    async def generated(step: RowsStep) -> AsyncIterator[int]:
        yield await count()

    @app.post("/background/{status}")
    async def background(status: int, tasks: BackgroundTasks, response: Response, step: RowsStep) -> None:
        async def later() -> None:
            done_later.append(await count())

        add(step)
        tasks.add_task(later)
        response.status_code = status

    @app.post("/raised")
    async def raised(step: RowsStep) -> None:
        add(step)
        raise Refused

    @app.post("/own-step")
    async def own_step() -> JSONResponse:
        async with service.step() as step:
            add(step)
        return JSONResponse({}, 503)

    @app.post("/rows", status_code=201)
    async def create(step: RowsStep) -> RowView:
        return add(step)  # type: ignore[return-value]  # FastAPI makes a RowView of it

    @app.post("/plain-rows", status_code=201, response_model=RowView)
    def create_plain(step: RowsStep) -> Any:
        return add(step)

    return app


async def count() -> int:
    async with service.query() as session:
        return await session.scalar(select(func.count()).select_from(Row)) or 0


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
async def world() -> AsyncIterator[ensue.testing.World]:
    done_later.clear()
    async with ensue.testing.run(service) as world:
        yield world


@pytest.fixture
async def client(world: ensue.testing.World) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app()) as client:
        yield client


@pytest.mark.parametrize("path", ["/returned", "/said", "/streamed", "/background"])
@pytest.mark.parametrize(("status", "rows"), [(201, 1), (303, 1), (404, 1), (409, 1), (500, 0), (503, 0), (599, 0)])
async def test_an_answer_that_is_returned_commits_unless_it_says_5xx(
    client: httpx.AsyncClient, world: ensue.testing.World, path: str, status: int, rows: int
) -> None:
    answer = await client.post(f"{path}/{status}")
    assert answer.status_code == status
    assert await count() == rows
    await world.settle()
    assert len(await world.published(RowAdded)) == rows
    if path in ("/streamed", "/background"):
        assert done_later == [rows]  # what comes after the answer has begun finds the step's end


async def test_what_was_answered_5xx_can_be_tried_again_with_its_key(client: httpx.AsyncClient) -> None:
    for path in ("/returned/503", "/streamed/503"):
        answers = [await client.post(path, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert [(each.status_code, "idempotency-replayed" in each.headers) for each in answers] == [(503, False)] * 2
    assert await count() == 0


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
async def test_whatever_is_raised_rolls_back_whichever_handler_answers(
    client: httpx.AsyncClient, key: dict[str, str]
) -> None:
    for _ in range(2):
        answer = await client.post("/raised", headers=key)
        assert (answer.status_code, answer.json()) == (200, {"of": "the user's handler"})
        assert "idempotency-replayed" not in answer.headers
    assert await count() == 0


async def test_a_step_that_the_route_has_ended_itself_is_its_own_affair(client: httpx.AsyncClient) -> None:
    assert (await client.post("/own-step")).status_code == 503
    assert await count() == 1


async def test_a_route_that_yields_its_answer_is_one_that_streams(client: httpx.AsyncClient) -> None:
    assert (await client.post("/generated")).text.strip() == "0"
    assert (await client.post("/generated", headers={"Idempotency-Key": "k"})).status_code == 500


@pytest.mark.parametrize("path", ["/rows", "/plain-rows"])
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
async def test_a_route_that_returns_a_row_answers_with_what_the_database_made_of_it(
    sql_database: str, path: str, key: dict[str, str]
) -> None:
    async with (
        ensue.testing.run(service, make_store=lambda name: make_store(sql_database, name)),
        client_of(make_app()) as client,
    ):
        answer = await client.post(path, headers=key)
        assert (answer.status_code, answer.json()) == (201, {"id": 1, "name": "x", "size": 7})
        assert await count() == 1
