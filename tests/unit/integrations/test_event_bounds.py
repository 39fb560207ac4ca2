"""What a client sends becomes part of events: one that no broker would take is the client's fault, and stops nobody."""

from __future__ import annotations

import logging
from typing import Annotated

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


walls = Service("walls", publishes=[Posted])
app = FastAPI()
install(app, walls, body_bytes_max=10_000_000)


@app.post("/posts/{rest}", status_code=201)
async def post(new: NewPost, rest: str, step: Annotated[Step, step_of(walls)]) -> None:
    step.publish(Posted(wall=new.wall, text=new.text))


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
