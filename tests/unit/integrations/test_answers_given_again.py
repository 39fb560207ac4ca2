"""What an answer that is given again looks like, and when two requests are the same one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Form, Request, Response, UploadFile
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import ensue.testing
from ensue import Service, Step
from ensue.adapters import make_store
from ensue.integrations.fastapi import install, step_of
from ensue.integrations.request_identity import body_parts

KEY = {"Idempotency-Key": "k"}


class Base(DeclarativeBase): ...


class Upload(Base):
    __tablename__ = "uploads"
    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]


uploads = Service("uploads", tables=Base.metadata)
UploadsStep = Annotated[Step, step_of(uploads)]
barriers: list[asyncio.Barrier] = []


def make_app() -> FastAPI:
    app = FastAPI()
    install(app, uploads)

    @app.api_route("/uploads", methods=["POST", "PUT", "DELETE"])
    async def upload(request: Request, step: UploadsStep) -> int:
        body = await request.body()
        step.session.add(Upload(size=len(body)))
        return len(body)

    @app.post("/headers")
    async def headers(response: Response, step: UploadsStep) -> Response:
        answer = Response(b"\x00\xff", 201, media_type="application/octet-stream")
        answer.headers.update(
            {
                "ETag": '"7"', "Location": "/uploads/7", "X-Of-The-User": "caf\xe9", "Link": "<a>",
                "Cache-Control": "private", "Date": "Fri, 27 Nov 2026 02:00:00 GMT", "Connection": "X-Of-Connection",
                "X-Of-Connection": "1", "Keep-Alive": "timeout=5",
            }
        )  # fmt: skip
        answer.headers.append("Link", "<b>")
        answer.set_cookie("session", "s3cret")
        return answer

    @app.post("/slow")
    async def slow(step: UploadsStep) -> int:
        step.session.add(Upload(size=1))
        await step.session.flush()
        await barriers[-1].wait()
        return 1

    return app


async def count() -> int:
    async with uploads.query() as session:
        return await session.scalar(select(func.count()).select_from(Upload)) or 0


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=KEY)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with ensue.testing.run(uploads), client_of(make_app()) as client:
        yield client


async def test_headers_come_again_except_those_of_one_connection_one_moment_or_one_browser(
    client: httpx.AsyncClient,
) -> None:
    first = await client.post("/headers")
    client.cookies.clear()  # they are a part of who asks
    again = await client.post("/headers")
    assert (again.status_code, again.content) == (201, b"\x00\xff")
    for name in ("content-type", "content-length", "etag", "location", "x-of-the-user", "cache-control"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["link"] == "<a>, <b>"
    for name in ("date", "set-cookie", "connection", "keep-alive", "x-of-connection"):
        assert name in first.headers
        assert name not in again.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-correlation-id"] != first.headers["x-correlation-id"]


def form(boundary: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    file = (
        b'--%(b)s\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%(c)s\r\n'
        b'--%(b)s\r\nContent-Disposition: form-data; name="of"\r\n\r\nx\r\n--%(b)s--\r\n'
    ) % {b"b": boundary.encode(), b"c": content}
    return file, {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}


async def test_a_file_is_the_same_whatever_boundary_the_client_draws(client: httpx.AsyncClient) -> None:
    large = b"\x00\r\n--" * 100_000
    for boundary, content, status in (("one", large, 200), ("another", large, 200), ("one", large + b"x", 422)):
        body, headers = form(boundary, content)
        answer = await client.post("/uploads", content=body, headers=headers)
        assert answer.status_code == status
    assert await count() == 1


@pytest.mark.usefixtures("client")
async def test_a_file_that_the_route_takes_as_an_upload_is_the_same_too() -> None:
    pytest.importorskip("python_multipart", reason="FastAPI needs it for forms")
    app = FastAPI()
    install(app, uploads)

    @app.post("/files")
    async def file_(file: UploadFile, of: Annotated[str, Form()], step: UploadsStep) -> int:
        content = await file.read()
        step.session.add(Upload(size=len(content)))
        return len(content)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://uploads", headers=KEY) as visitor:
        answers = []
        for boundary, content in (("one", b"abc"), ("another", b"abc"), ("one", b"abcd")):
            body, headers = form(boundary, content)
            answers.append(await visitor.post("/files", content=body, headers=headers))
    assert [each.status_code for each in answers] == [200, 200, 422]
    assert answers[1].json() == 3
    assert "idempotency-replayed" in answers[1].headers
    assert await count() == 1


@pytest.mark.parametrize(
    "changed", [b"a=1&b=2", b"a=1", b"", b"--\r\n"], ids=["longer form", "form", "nothing", "delimiter"]
)
async def test_another_body_is_another_request(client: httpx.AsyncClient, changed: bytes) -> None:
    assert (await client.post("/uploads", content=b"a=2")).status_code == 200
    assert (await client.post("/uploads", content=changed)).status_code == 422
    assert (await client.post("/uploads", content=b"a=2")).status_code == 200
    assert await count() == 1


async def test_the_same_bytes_of_another_media_type_are_another_request(client: httpx.AsyncClient) -> None:
    statuses = [
        (await client.post("/uploads", content=b"1", headers={"Content-Type": each})).status_code
        for each in ("application/json", "application/json; charset=utf-8", "text/plain")
    ]
    assert statuses == [200, 200, 422]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_no_body_is_a_body_like_any_other(client: httpx.AsyncClient, method: str) -> None:
    answers = [await client.request(method, "/uploads") for _ in range(2)]
    assert [(each.status_code, each.json()) for each in answers] == [(200, 0)] * 2
    assert await count() == 1


async def test_a_body_in_chunks_is_the_same_as_one_in_one_piece(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    first = await client.post("/uploads", content=b"ab")
    again = await client.post("/uploads", content=chunks())
    assert (first.json(), again.json(), "idempotency-replayed" in again.headers) == (2, 2, True)


@given(st.text(st.characters(max_codepoint=255)), st.binary())
def test_a_fingerprint_can_be_taken_of_whatever_a_client_sends(content_type: str, body: bytes) -> None:
    list(body_parts(content_type, body))
    list(body_parts(f"multipart/form-data; boundary={content_type}", body))


async def test_of_two_at_once_one_takes_effect_and_the_other_gets_its_answer_or_is_told_to_ask_again(
    sql_database: str,
) -> None:
    """On SQLite the second one waits, since there is one writer; elsewhere it meets the first one's answer when it is
    about to keep its own."""
    barriers.append(asyncio.Barrier(1 if sql_database.startswith("sqlite") else 2))
    async with (
        ensue.testing.run(uploads, make_store=lambda name: make_store(sql_database, name)),
        client_of(make_app()) as client,
    ):
        async with asyncio.timeout(30):
            answers = await asyncio.gather(client.post("/slow"), client.post("/slow"))
            barriers.append(asyncio.Barrier(1))
        assert await count() == 1
        again = await client.post("/slow")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    first = next(each for each in answers if each.status_code == 200 and "idempotency-replayed" not in each.headers)
    [other] = [each for each in answers if each is not first]
    if sql_database.startswith("sqlite"):
        assert (other.status_code, other.headers["idempotency-replayed"]) == (200, "true")
    else:
        assert (other.status_code, other.json()["type"]) == (409, "urn:ensue:problem:idempotency-conflict")
        assert other.headers["retry-after"] == "1"
