"""What a client sends becomes part of events: one that no broker would take is the client's fault, and stops nobody."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

import ensue.testing
from ensue import Event, Service, Step
from ensue.integrations.fastapi import install, step_of


class Posted(Event, topic="walls", key="wall"):
    wall: str
    text: str = ""


class NewPost(BaseModel):
    wall: str
    text: str = ""


class Rated(Event, topic="rates", key="wall"):
    wall: str
    rate: float
    more: Any = None


class NewRate(BaseModel):
    rate: float
    more: Any = None


walls = Service("walls", publishes=[Posted, Rated])
app = FastAPI()
install(app, walls, body_bytes_max=10_000_000)


@app.post("/posts/{rest}", status_code=201)
async def post(new: NewPost, rest: str, step: Annotated[Step, step_of(walls)]) -> None:
    step.publish(Posted(wall=new.wall, text=new.text))


@app.post("/rates", status_code=201)
async def rate(new: NewRate, step: Annotated[Step, step_of(walls)]) -> None:
    step.publish(Rated(wall="w", rate=new.rate, more=new.more))


@app.post("/wrong", status_code=201)
async def wrong(step: Annotated[Step, step_of(walls)]) -> None:
    step.publish(Rated(wall="w", rate="much"))  # type: ignore[arg-type]  # a fault of the service


@pytest.mark.parametrize(
    ("body", "status", "kind", "expected"),
    [
        ({"wall": "w" * 1_025}, 422, "event-refused", "at most 1024 bytes of UTF-8"),
        ({"wall": "a\0b"}, 422, "event-refused", "text without NUL characters"),
        ({"wall": "w", "text": "x" * 900_000}, 413, "event-too-large", "at most 900000"),
    ],
)
async def test_a_request_whose_event_no_broker_would_take_is_refused_and_the_next_one_goes_out(
    body: dict[str, str], status: int, kind: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ensue.http")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        ensue.testing.run(walls) as world,
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        answer = await client.post("/posts/%0Aforged", json=body)
        found = answer.json()
        assert (answer.status_code, found["type"]) == (status, f"urn:ensue:problem:{kind}")
        assert expected in found["detail"]
        assert body["wall"] not in answer.text or body["wall"] == "w"  # what was sent is not shown again
        assert (await client.post("/posts/x", json={"wall": "free"})).status_code == 201
        await world.settle()
        assert [each.wall for each in await world.published(Posted)] == ["free"]
    [line] = [each.getMessage() for each in caplog.records if each.name == "ensue.http"]
    assert line.startswith(f"POST /posts/%0Aforged was answered {status}: walls.Posted.v1 with key ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"rate": NaN}', 422),
        (b'{"rate": 1e999}', 422),
        (b'{"rate": -Infinity}', 422),
        (b'{"rate": 1, "more": "\\ud800"}', 422),
        (b'{"rate": 1, "more": ' + b"[" * 900 + b"]" * 900 + b"}", 422),
        (b'{"rate": 1, "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"rate": 1, "more": 1' + b"0" * 30 + b"}", 201),
        (b'{"rate": 1' + b"0" * 5000 + b"}", 400),
    ],
    ids=["nan", "overflow", "infinity", "surrogate", "deep", "deeper", "large number", "huge number"],
)
async def test_what_json_or_an_event_cannot_carry_is_the_clients_fault(content: bytes, status: int) -> None:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        ensue.testing.run(walls),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        answer = await client.post("/rates", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        if status != 201:
            assert answer.headers["content-type"] == "application/problem+json"
        assert (await client.post("/wrong")).status_code == 500
