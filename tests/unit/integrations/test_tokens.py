"""Ensue-Token over HTTP: a client that hands back what it got never reads its own past, or is told why not."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ensue import EngineConfig, Event, Key, Retry, Service, Step, Token, Trust
from ensue.integrations import asgi, starlette
from ensue.integrations.fastapi import install, step_of
from ensue.token import Part

QUICK = EngineConfig(poll_interval_s=0.1, retry=Retry(attempts_max=1))


class Pinned(Event, topic="token-pins", key="board"):
    board: str
    number: int


class Shop:
    """A writer and a reader, each with its own app, on one broker of this directory."""

    def __init__(self, directory: Path, *, wait: float | bool = True, trust: Trust | None = None) -> None:
        def service(name: str) -> Service:
            return Service(
                name,
                database=f"sqlite:///{directory}/{name}.db",
                broker=f"sqlite:///{directory}/broker.db",
                partitions=4,
                engine=QUICK,
                trust=trust,
            )

        self.boards, self.wall = service("boards"), service("wall")
        self.writes, self.reads = FastAPI(), FastAPI()
        install(self.writes, self.boards, tokens=True)
        install(self.reads, self.wall, tokens=wait)
        self.seen: dict[str, int] = {}
        self.stopped: asyncio.Event | None = None

        @self.wall.on
        async def see(event: Pinned, step: Step) -> None:
            if self.stopped is not None:
                await self.stopped.wait()
            if event.number < 0:
                raise ValueError("no such pin")
            self.seen[event.board] = event.number

        @self.writes.put("/boards/{board}")
        async def pin(board: str, number: int, step: Annotated[Step, step_of(self.boards)]) -> int:
            step.publish(Pinned(board=board, number=number))
            return number

        @self.writes.post("/nothing")
        async def nothing(step: Annotated[Step, step_of(self.boards)]) -> None: ...

        @self.writes.post("/refused")
        async def refused(step: Annotated[Step, step_of(self.boards)]) -> JSONResponse:
            step.publish(Pinned(board="refused", number=1))
            return JSONResponse({}, 503)

        @self.reads.get("/boards/{board}")
        async def read(board: str) -> int:
            return self.seen.get(board, 0)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
        async with (
            self.writes.router.lifespan_context(self.writes),
            self.reads.router.lifespan_context(self.reads),
            httpx.AsyncClient(transport=httpx.ASGITransport(self.writes), base_url="http://boards") as boards,
            httpx.AsyncClient(transport=httpx.ASGITransport(self.reads), base_url="http://wall") as wall,
        ):
            yield boards, wall


async def test_who_hands_back_the_token_reads_what_it_wrote(tmp_path: Path) -> None:
    async with Shop(tmp_path).open() as (boards, wall):

        async def writes_and_reads(client: int) -> None:
            for number in range(1, 6):
                written = await boards.put(f"/boards/{client}", params={"number": number})
                token = {"Ensue-Token": written.headers["Ensue-Token"]}
                assert (await wall.get(f"/boards/{client}", headers=token)).json() == number

        await asyncio.gather(*(writes_and_reads(client) for client in range(20)))


async def test_tokens_of_several_answers_are_sent_together(tmp_path: Path) -> None:
    async with Shop(tmp_path).open() as (boards, wall):
        tokens = [
            (await boards.put(f"/boards/{each}", params={"number": 7})).headers["Ensue-Token"] for each in range(10)
        ]
        for headers in ({"Ensue-Token": ", ".join(tokens)}, httpx.Headers([("Ensue-Token", each) for each in tokens])):
            answers = [(await wall.get(f"/boards/{each}", headers=headers)).json() for each in range(10)]
            assert answers == [7] * 10


async def test_only_what_committed_has_a_token(tmp_path: Path) -> None:
    async with Shop(tmp_path).open() as (boards, wall):
        assert "Ensue-Token" not in (await boards.post("/nothing")).headers
        refused = await boards.post("/refused")
        assert refused.status_code == 503
        assert "Ensue-Token" not in refused.headers
        assert "Ensue-Token" not in (await wall.get("/boards/a")).headers


async def test_an_answer_that_is_given_again_has_a_token_for_what_it_wrote(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    async with shop.open() as (boards, wall):
        key = {"Idempotency-Key": "pin-1"}
        first = await boards.put("/boards/a", params={"number": 1}, headers=key)
        again = await boards.put("/boards/a", params={"number": 1}, headers=key)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert "ensue-places" not in {**first.headers, **again.headers}
        # Its step was rolled back, so its token is of all that is there by now, its own first answer included.
        one, two = (Token.parse(each.headers["Ensue-Token"]) for each in (first, again))
        assert one | two == two
        assert [part[:3] for part in one.parts] == [part[:3] for part in two.parts]
        read = await wall.get("/boards/a", headers={"Ensue-Token": again.headers["Ensue-Token"]})
        assert read.json() == 1


def _with_fastapi(boards: Service, tokens: bool) -> Starlette:
    app = FastAPI()
    install(app, boards, work=False, tokens=tokens)

    @app.post("/")
    async def pin(step: Annotated[Step, step_of(boards)]) -> None:
        step.publish(Pinned(board="a", number=1))

    return app


def _with_starlette(boards: Service, tokens: bool) -> Starlette:
    @starlette.in_step(boards)
    async def pin(request: Request, step: Step) -> Response:
        step.publish(Pinned(board="a", number=1))
        return Response("null")

    app = Starlette(routes=[Route("/", pin, methods=["POST"])])
    starlette.install(app, boards, work=False, tokens=tokens)
    return app


def _with_asgi(boards: Service, tokens: bool) -> Starlette:
    async def pin(scope: Scope, receive: Receive, send: Send) -> None:
        asgi.step_in(scope).publish(Pinned(board="a", number=1))
        await Response("null")(scope, receive, send)

    return asgi.install_around(asgi.in_step(boards)(pin), boards, work=False, tokens=tokens)


@pytest.mark.parametrize("make", [_with_fastapi, _with_starlette, _with_asgi])
async def test_an_app_that_has_no_tokens_any_more_shows_nothing_of_what_was_kept_for_them(
    tmp_path: Path, make: Callable[[Service, bool], Starlette]
) -> None:
    found: list[httpx.Response] = []
    for tokens in (True, False):
        app = make(Service("boards", database=f"sqlite:///{tmp_path}/boards.db", broker="memory://"), tokens)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://boards") as asks,
        ):
            found.append(await asks.post("/", headers={"Idempotency-Key": "k"}))
    first, again = found
    assert "Ensue-Token" in first.headers
    assert (again.text, again.headers["Idempotency-Replayed"]) == ("null", "true")
    assert not {"ensue-token", "ensue-places"} & set(again.headers)


async def test_who_does_not_catch_up_in_time_says_so_and_how_far_it_is(tmp_path: Path) -> None:
    shop = Shop(tmp_path, wait=0.1)
    shop.stopped = asyncio.Event()
    async with shop.open() as (boards, wall):
        written = await boards.put("/boards/a", params={"number": 3})
        token = {"Ensue-Token": written.headers["Ensue-Token"]}
        late = await wall.get("/boards/a", headers=token)
        assert late.status_code == 504
        assert late.headers["Content-Type"] == "application/problem+json"
        document = late.json()
        assert document["type"] == "urn:ensue:problem:not-caught-up"
        [part] = Token.parse(token["Ensue-Token"]).parts
        assert document["behind"] == [
            {**dict(zip(("source", "topic", "partition", "wanted"), part, strict=True)), "reached": 0, "lag": 1}
        ]
        assert (await wall.get("/boards/a")).json() == 0  # without the token: what there is now
        shop.stopped.set()
        for _ in range(100):  # each of them waits
            found = await wall.get("/boards/a", headers=token)
            if found.status_code == 200:
                break
        assert found.json() == 3


async def test_a_letter_in_the_way_is_a_409_that_names_it(tmp_path: Path) -> None:
    async with Shop(tmp_path).open() as (boards, wall):
        written = await boards.put("/boards/a", params={"number": -1})
        held = await wall.get("/boards/a", headers={"Ensue-Token": written.headers["Ensue-Token"]})
        assert held.status_code == 409
        [part] = Token.parse(written.headers["Ensue-Token"]).parts
        document = held.json()
        assert (document["type"], document["service"]) == ("urn:ensue:problem:held-back", "wall")
        assert document["letter"] == f"token-pins/{part.partition}:1"


async def test_what_is_no_token_is_a_400_and_too_many_who_wait_a_503(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.wall._given["engine"] = dataclasses.replace(QUICK, waiters_max=1)
    async with shop.open() as (_, wall):
        for text in ("nonsense", "1.AAAA", "1." + "A" * 8192):
            refused = await wall.get("/boards/a", headers={"Ensue-Token": text})
            assert (refused.status_code, refused.json()["type"]) == (400, "urn:ensue:problem:token-invalid")
        never = {"Ensue-Token": str(Token((Part("boards/never", "token-pins", 0, 1),)))}
        first = asyncio.create_task(wall.get("/boards/a", headers=never))
        while not shop.wall.runtime.context.caught_up.waiting:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0)
        busy = await wall.get("/boards/a", headers=never)
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
        first.cancel()
        await asyncio.wait([first])


async def test_where_records_must_be_signed_tokens_must_be_too(tmp_path: Path) -> None:
    keys = tuple(Key(name, "1", name * 10) for name in ("boards", "wall-wall"))
    keys = (*keys, Key("wall", "1", "w" * 40))
    async with Shop(tmp_path, trust=Trust(signed=True, keys=keys)).open() as (boards, wall):
        token = (await boards.put("/boards/a", params={"number": 5})).headers["Ensue-Token"]
        assert (await wall.get("/boards/a", headers={"Ensue-Token": token})).json() == 5
        unsigned = str(Token(Token.parse(token).parts))
        assert unsigned != token
        refused = await wall.get("/boards/a", headers={"Ensue-Token": unsigned})
        assert (refused.status_code, refused.json()["type"]) == (400, "urn:ensue:problem:token-invalid")


async def test_where_nobody_asked_for_tokens_there_are_none(tmp_path: Path) -> None:
    shop = Shop(tmp_path, wait=False)
    async with shop.open() as (boards, wall):
        token = (await boards.put("/boards/a", params={"number": 1})).headers["Ensue-Token"]
        assert (await wall.get("/boards/a", headers={"Ensue-Token": "nonsense"})).status_code == 200
        del token
    paths = shop.writes.openapi()["paths"]["/boards/{board}"]["put"]
    assert "Ensue-Token" in [each["name"] for each in paths["parameters"]]
    assert {"409", "504"} <= paths["responses"].keys()
    assert "Ensue-Token" not in str(shop.reads.openapi())


async def test_a_route_that_waits_by_itself_needs_no_more_than_the_text(tmp_path: Path) -> None:
    shop = Shop(tmp_path, wait=False)

    @shop.reads.get("/waits")
    async def waits(token: str) -> int:
        await shop.wall.caught_up(token, timeout=30)
        return shop.seen["a"]

    async with shop.open() as (_, wall):
        async with shop.boards.step() as step:
            step.publish(Pinned(board="a", number=9))
        assert (await wall.get("/waits", params={"token": str(await step.token())})).json() == 9
