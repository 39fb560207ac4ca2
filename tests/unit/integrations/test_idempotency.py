"""The answer to an Idempotency-Key is stored in the step whose effect it reports, so both happen once or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.types import Message, Receive, Scope, Send

import ensue.testing
from ensue import Event, Service, Step
from ensue.integrations.fastapi import Problem, StepRoute, install, step_of


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class NoteWritten(Event, topic="notes", key="note"):
    note: int


class NewNote(BaseModel):
    text: str


notes = Service("notes", tables=Base.metadata)
NotesStep = Annotated[Step, step_of(notes)]


def make_app() -> FastAPI:
    app = FastAPI()
    install(app, notes)
    router = APIRouter(route_class=StepRoute)

    async def write(step: Step, text: str) -> int:
        note = Note(text=text)
        step.session.add(note)
        await step.session.flush()
        step.publish(NoteWritten(note=note.id))
        return note.id

    @app.post("/notes", status_code=201)
    async def create(new: NewNote, response: Response, step: NotesStep) -> int:
        note = await write(step, new.text)
        response.headers["Location"] = f"/notes/{note}"
        return note

    @router.post("/routed", status_code=201)
    async def create_routed(new: NewNote, step: NotesStep) -> int:
        return await write(step, new.text)

    app.include_router(router)

    @app.post("/refused")
    async def refuse(new: NewNote, step: NotesStep) -> None:
        await write(step, new.text)
        raise Problem(409, detail="not now")

    @app.post("/returned")
    async def answer_with_a_problem(new: NewNote, step: NotesStep) -> JSONResponse:
        await write(step, new.text)
        return JSONResponse({"number": await count(step)}, 409)

    @app.post("/streamed")
    async def stream(new: NewNote, step: NotesStep) -> StreamingResponse:
        await write(step, new.text)
        return StreamingResponse(iter([b"x"]))

    @app.post("/own-step")
    async def open_a_step_of_its_own(new: NewNote) -> int:
        async with notes.step() as step:
            return await write(step, new.text)

    @app.delete("/notes", status_code=204)
    async def remove(step: NotesStep) -> None:
        await write(step, "removed")

    @app.get("/notes")
    async def find(step: NotesStep) -> int:
        return await count(step)

    return app


async def count(step: Step) -> int:
    return await step.session.scalar(select(func.count()).select_from(Note)) or 0


async def stored() -> int:
    async with notes.query() as session:
        return await session.scalar(select(func.count()).select_from(Note)) or 0


@pytest.fixture
async def world() -> AsyncIterator[ensue.testing.World]:
    async with ensue.testing.run(notes) as world:
        yield world


@pytest.fixture
async def client(world: ensue.testing.World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("path", ["/notes", "/routed"])
async def test_same_key_again_gets_the_same_answer_and_has_no_second_effect(
    client: httpx.AsyncClient, world: ensue.testing.World, path: str
) -> None:
    first = await client.post(path, json={"text": "a"}, headers={"Idempotency-Key": "k 1"})
    again = await client.post(path, json={"text": "a"}, headers={"Idempotency-Key": "k 1"})
    assert (first.status_code, first.json()) == (201, 1)
    assert (again.status_code, again.content) == (201, first.content)
    for name in ("content-type", "content-length", "location"):
        assert again.headers.get(name) == first.headers.get(name)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    await world.settle()
    assert (await stored(), len(await world.published(NoteWritten))) == (1, 1)


async def test_two_at_once_with_one_key_take_effect_once_and_get_one_answer(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.post("/notes", json={"text": "a"}, headers={"Idempotency-Key": "k"}) for _ in range(8))
    )
    assert {(answer.status_code, answer.content, answer.headers["location"]) for answer in answers} == {
        (201, b"1", "/notes/1")
    }
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert await stored() == 1


async def test_without_a_key_each_request_takes_effect(client: httpx.AsyncClient) -> None:
    assert [(await client.post("/notes", json={"text": "a"})).json() for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("path", "text"), [("/notes", "b"), ("/notes?x=1", "a")])
async def test_same_key_with_another_request_is_422(client: httpx.AsyncClient, path: str, text: str) -> None:
    await client.post("/notes", json={"text": "a"}, headers={"Idempotency-Key": "k"})
    answer = await client.post(path, json={"text": text}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:ensue:problem:idempotency-mismatch"
    assert await stored() == 1


async def test_a_key_belongs_to_its_method_and_path(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = [await client.post(path, json={"text": "a"}, headers=headers) for path in ("/notes", "/routed") * 2]
    answers.append(await client.delete("/notes", headers=headers))
    assert [answer.status_code for answer in answers] == [201, 201, 201, 201, 204]
    assert ["idempotency-replayed" in answer.headers for answer in answers] == [False, False, True, True, False]
    assert await stored() == 3


async def test_refused_request_leaves_nothing_so_the_key_can_be_tried_again(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await client.post("/refused", json={"text": "a"}, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 409
        assert "idempotency-replayed" not in answer.headers
    assert await stored() == 0


async def test_invalid_request_leaves_nothing_so_the_key_can_be_tried_again(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    assert (await client.post("/notes", json={"text": 1}, headers=headers)).status_code == 422
    assert (await client.post("/notes", json={"text": "a"}, headers=headers)).status_code == 201


async def test_error_answer_that_committed_is_an_answer_like_any_other(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = [await client.post("/returned", json={"text": "a"}, headers=headers) for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(409, {"number": 1})] * 2
    assert await stored() == 1


async def test_answer_without_a_body_is_given_again(client: httpx.AsyncClient) -> None:
    answers = [await client.delete("/notes", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [(answer.status_code, answer.content) for answer in answers] == [(204, b"")] * 2
    assert await stored() == 1


async def test_key_has_no_meaning_for_a_request_that_changes_nothing(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    assert (await client.get("/notes", headers=headers)).json() == 0
    await client.post("/notes", json={"text": "a"}, headers=headers)
    assert (await client.get("/notes", headers=headers)).json() == 1


async def test_streamed_answer_cannot_be_kept_so_nothing_is_done(client: httpx.AsyncClient) -> None:
    answer = await client.post("/streamed", json={"text": "a"}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 500
    assert await stored() == 0
    assert (await client.post("/streamed", json={"text": "a"})).content == b"x"


async def test_a_step_that_would_commit_before_its_answer_is_refused_when_there_is_a_key(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/own-step", json={"text": "a"}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 500
    assert await stored() == 0
    assert (await client.post("/own-step", json={"text": "a"})).status_code == 200
    assert await stored() == 1


async def test_correlation_id_and_trace_of_the_request_go_with_its_events(
    client: httpx.AsyncClient, world: ensue.testing.World
) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await client.post("/notes", json={"text": "a"}, headers={"X-Correlation-Id": "flow 7", "traceparent": trace})
    answer = await client.post("/notes", json={"text": "b"}, headers={"traceparent": "nonsense"})
    await world.settle()
    messages = {message.data: message.envelope for message in await world.messages("notes")}
    first, second = messages[b'{"note":1}'], messages[b'{"note":2}']
    assert (first.correlation_id, first.traceparent) == ("flow 7", trace)
    assert (second.correlation_id, second.traceparent) == (answer.headers["x-correlation-id"], "")


async def test_no_client_sees_the_answer_before_the_commit(world: ensue.testing.World) -> None:
    app = make_app()
    seen: list[int] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_look(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.append(await stored())
            await send(message)

        await app(scope, receive, send_and_look)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(watched), base_url="http://test") as client:
        for key in ("k1", "k2", "k2"):
            await client.post("/notes", json={"text": "a"}, headers={"Idempotency-Key": key})
    assert seen == [1, 2, 2]
