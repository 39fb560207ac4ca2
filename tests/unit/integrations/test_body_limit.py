from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from starlette.types import Message

from ensue import Service
from ensue.integrations import body_limit
from ensue.integrations.fastapi import StepRoute, install

LIMIT = 1000


def make_app(seen: list[int] | None = None) -> FastAPI:
    app = FastAPI()
    install(app, Service("shop"), body_bytes_max=LIMIT)

    @app.post("/length")
    async def length(request: Request) -> int:
        found = len(await request.body())
        if seen is not None:
            seen.append(found)
        return found

    return app


async def chunks(sizes: Iterable[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://test") as client:
        yield client


async def test_body_up_to_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    assert (await client.post("/length", content=b"x" * LIMIT)).json() == LIMIT
    assert (await client.post("/length", content=chunks([LIMIT // 2, LIMIT // 2]))).json() == LIMIT


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
async def test_longer_body_is_413_with_the_limit_said(client: httpx.AsyncClient, chunked: bool, keyed: bool) -> None:
    content = chunks([LIMIT, 1]) if chunked else b"x" * (LIMIT + 1)
    answer = await client.post("/length", content=content, headers={"Idempotency-Key": "k"} if keyed else {})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"{LIMIT} bytes" in answer.json()["detail"]
    assert "connection" not in answer.headers  # everything was read, so the connection can be used again


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_that_a_key_makes_us_read_is_bounded_without_install_too(chunked: bool) -> None:
    app = FastAPI()
    router = APIRouter(route_class=StepRoute)

    @router.post("/first")
    async def first(request: Request) -> int:
        async for piece in request.stream():
            return len(piece)
        return 0

    app.include_router(router)
    sizes = [body_limit.BODY_BYTES_MAX, 1]
    content = chunks(sizes) if chunked else b"x" * sum(sizes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        refused = await client.post("/first", content=content, headers={"Idempotency-Key": "k"})
        assert (refused.status_code, str(body_limit.BODY_BYTES_MAX) in refused.text) == (413, True)
        # Without a key Ensue reads nothing: how much is taken is the application's business.
        taken = await client.post("/first", content=chunks(sizes) if chunked else b"x" * sum(sizes))
        assert taken.status_code == 200


async def exchange(
    scope_headers: list[tuple[bytes, bytes]], incoming: AsyncIterator[Message]
) -> tuple[int, dict[bytes, bytes], int]:
    """Drive the application by hand; return status, headers, and how many messages it asked for."""
    asked = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return await anext(incoming)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/length", "raw_path": b"/length", "root_path": "", "scheme": "http",
        "query_string": b"", "headers": scope_headers, "http_version": "1.1", "server": ("test", 80),
    }  # fmt: skip
    await make_app()(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), asked


async def endless() -> AsyncIterator[Message]:
    while True:
        yield {"type": "http.request", "body": b"x" * 100_000, "more_body": True}


async def test_endless_body_is_answered_and_its_connection_closed() -> None:
    async with asyncio.timeout(30):
        status, headers, asked = await exchange([], endless())
    assert (status, headers[b"connection"]) == (413, b"close")
    assert asked <= body_limit.DRAIN_BYTES_MAX // 100_000 + 3


async def test_absurd_content_length_is_answered_without_reading() -> None:
    status, headers, asked = await exchange([(b"content-length", b"9" * 30)], endless())
    assert (status, headers[b"connection"], asked) == (413, b"close", 0)


async def test_client_that_waits_for_100_continue_is_answered_without_reading() -> None:
    headers = [(b"content-length", b"5000"), (b"expect", b"100-continue")]
    status, answered, asked = await exchange(headers, endless())
    assert (status, answered[b"connection"], asked) == (413, b"close", 0)


async def test_client_that_goes_away_while_its_body_is_dropped_ends_the_request() -> None:
    async def half() -> AsyncIterator[Message]:
        yield {"type": "http.request", "body": b"x" * 4000, "more_body": True}
        while True:
            yield {"type": "http.disconnect"}

    async with asyncio.timeout(30):
        status, _, asked = await exchange([(b"content-length", b"5000")], half())
    assert (status, asked) == (413, 2)


class Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    """A real server: what happens to bytes that nobody reads is a matter of the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(uvicorn.Config(make_app(), log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve([listening]))
        await server.listens.wait()
        yield listening.getsockname()
        server.should_exit = True
        await serving


async def answer_to(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


@pytest.mark.parametrize("chunked", [False, True])
async def test_ten_megabytes_are_answered_and_the_connection_goes_on(address: tuple[str, int], chunked: bool) -> None:
    reader, writer = await asyncio.open_connection(*address)
    start = b"POST /length HTTP/1.1\r\nHost: test\r\n"
    async with asyncio.timeout(60):
        if chunked:
            writer.write(start + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(100):
                writer.write(b"%x\r\n" % 100_000 + b"x" * 100_000 + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        else:
            writer.write(start + b"Content-Length: 10000000\r\n\r\n")
            for _ in range(100):
                writer.write(b"x" * 100_000)
                await writer.drain()
        status, body = await answer_to(reader)
        assert (status, b"body-too-large" in body) == (413, True)
        writer.write(start + b"Content-Length: 3\r\n\r\nabc")
        assert await answer_to(reader) == (200, b"3")
        writer.close()
        await writer.wait_closed()
