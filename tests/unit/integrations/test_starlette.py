"""A plain Starlette app: steps around routes, keys, tokens, problem documents, probes; and that it wants no FastAPI."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from ensue import Event, Service, Step, UsageError
from ensue.integrations.starlette import Problem, ReadyLimits, health_routes, in_step, install, metrics_route, read_json

PROBES = ("/livez", "/healthz", "/readyz", "/metrics", "/asyncapi.json")


class CardSent(Event, topic="cards-sent", key="number"):
    number: int


class NewCard(msgspec.Struct):
    number: int


def service(tmp_path: Path, name: str = "cards") -> Service:
    return Service(name, database=f"sqlite:///{tmp_path}/{name}.db", broker="memory://", publishes=[CardSent])


def client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def heads(cards: Service) -> int:
    """How many events are in its outbox."""
    return sum((await cards.runtime.store.outbox_heads()).values())


def an_app(cards: Service, middleware: list[Middleware] | None = None) -> Starlette:
    calls = []

    @in_step(cards)
    async def send(request: Request, step: Step) -> Response:
        new = await read_json(request, NewCard)
        step.publish(CardSent(number=new.number))
        calls.append(new.number)
        if new.number == 404:
            raise Problem(404, "No such card", detail="there is no card 404")
        return JSONResponse({"call": len(calls)}, 503 if new.number == 503 else 201, {"X-Own": "kept"})

    @in_step(cards)
    def threaded(request: Request, step: Step) -> Response:
        step.publish(CardSent(number=1))
        return Response(status_code=204)

    async def bare(request: Request) -> Response:
        async with cards.step() as step:
            step.publish(CardSent(number=1))
        return JSONResponse((await request.json())["number"])

    class Cards(HTTPEndpoint):
        @in_step(cards)
        async def post(self, request: Request, step: Step) -> Response:
            step.publish(CardSent(number=1))
            return JSONResponse(type(self).__name__)

    @in_step(cards)
    async def nothing(request: Request, step: Step) -> Response:
        return {"no": "response"}  # type: ignore[return-value]  # the point of the test

    @requires("authenticated")
    @in_step(cards)
    async def guarded(request: Request, step: Step) -> Response:
        raise AssertionError("nobody gets in")

    async def count(request: Request) -> Response:
        return JSONResponse(await heads(cards))

    routes = [
        Route("/send", send, methods=["POST"]),
        Route("/send", count, methods=["GET"]),
        Route("/threaded", threaded, methods=["POST"]),
        Route("/bare", bare, methods=["POST"]),
        Route("/nothing", nothing, methods=["POST"]),
        Route("/guarded", guarded, methods=["POST"]),
        Route("/class", Cards),
        Mount("/inner", routes=[Route("/send", send, methods=["POST"])], middleware=middleware),
    ]
    app = Starlette(routes=routes, middleware=middleware)
    install(app, cards, work=False, tokens=True, body_bytes_max=1000)
    return app


async def test_an_answer_is_kept_in_the_step_and_given_again_with_its_token(tmp_path: Path) -> None:
    cards = service(tmp_path)
    app = an_app(cards)
    async with app.router.lifespan_context(app), client(app) as asks:
        headers = {"Idempotency-Key": "k", "X-Correlation-Id": "flow-1"}
        first, again = [await asks.post("/send", json={"number": 7}, headers=headers) for _ in range(2)]
        other = await asks.post("/send", json={"number": 8}, headers=headers)
        assert await heads(cards) == 1
    assert (first.status_code, first.json(), first.headers["X-Correlation-Id"]) == (201, {"call": 1}, "flow-1")
    assert (again.status_code, again.json(), again.headers["X-Own"]) == (201, {"call": 1}, "kept")
    assert (again.headers["Idempotency-Replayed"], "Idempotency-Replayed" in first.headers) == ("true", False)
    assert first.headers["Ensue-Token"]
    assert again.headers["Ensue-Token"]
    assert (other.status_code, other.json()["title"]) == (422, "Idempotency-Key used before")


@pytest.mark.parametrize("number", [404, 503])
async def test_a_step_is_rolled_back_with_a_problem_and_with_5xx(tmp_path: Path, number: int) -> None:
    cards = service(tmp_path)
    app = an_app(cards)
    async with app.router.lifespan_context(app), client(app) as asks:
        answer = await asks.post("/send", json={"number": number}, headers={"Idempotency-Key": "k"})
        assert answer.status_code == number
        assert "Ensue-Token" not in answer.headers
        assert await heads(cards) == 0
        if number == 404:
            assert answer.json()["detail"] == "there is no card 404"
            assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["X-Correlation-Id"]


@pytest.mark.parametrize("path", ["/threaded", "/class", "/inner/send"])
async def test_functions_methods_and_routes_of_a_mount_are_in_steps(tmp_path: Path, path: str) -> None:
    cards = service(tmp_path)
    app = an_app(cards)
    async with app.router.lifespan_context(app), client(app) as asks:
        answer = await asks.post(path, json={"number": 1})
        assert answer.status_code < 300
        assert answer.headers["Ensue-Token"]
        assert await heads(cards) == 1


async def test_a_step_of_the_routes_own_is_refused_to_a_request_with_a_key_and_else_gives_a_token(
    tmp_path: Path,
) -> None:
    cards = service(tmp_path)
    app = an_app(cards)
    async with app.router.lifespan_context(app), client(app) as asks:
        answer = await asks.post("/bare", json={"number": 5})
        assert (answer.json(), await heads(cards)) == (5, 1)
        assert answer.headers["Ensue-Token"]
        with pytest.raises(UsageError, match=r"@in_step\(cards\)"):
            await asks.post("/bare", json={"number": 5}, headers={"Idempotency-Key": "k"})
        assert await heads(cards) == 1


async def test_a_middleware_that_begins_another_task_takes_nothing_away(tmp_path: Path) -> None:
    async def through(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call(request)

    cards = service(tmp_path)
    app = an_app(cards, [Middleware(BaseHTTPMiddleware, dispatch=through)])
    async with app.router.lifespan_context(app), client(app) as asks:
        for calls, path in enumerate(("/send", "/inner/send"), 1):  # around the router, and within it
            headers = {"Idempotency-Key": path}
            answers = [await asks.post(path, json={"number": 7}, headers=headers) for _ in range(2)]
            assert [each.json() for each in answers] == [{"call": calls}] * 2
            assert all(each.headers["Ensue-Token"] for each in answers)
        assert (await asks.post("/inner/send", json={"number": 503})).status_code == 503
        assert await heads(cards) == 2


async def test_a_request_that_brings_a_token_waits_and_one_that_nobody_gave_is_refused(tmp_path: Path) -> None:
    cards = service(tmp_path)
    app = an_app(cards)
    async with app.router.lifespan_context(app), client(app) as asks:
        token = (await asks.post("/send", json={"number": 7})).headers["Ensue-Token"]
        assert (await asks.get("/send", headers={"Ensue-Token": token})).json() == 1
        refused = await asks.get("/send", headers={"Ensue-Token": "nonsense"})
    assert (refused.status_code, refused.json()["type"]) == (400, "urn:ensue:problem:token-invalid")


@pytest.mark.parametrize(
    ("content", "media_type", "status", "said"),
    [
        (b'{"number": 1', "application/json", 400, "The body is no JSON"),
        (b'{"number": 1}', "text/plain", 415, "Content-Type: application/json"),
        (b'{"number": "secret"}', "application/json", 422, "body.number"),
        (b"[]", "application/json", 422, "body"),
        (b'{"number": ' + b"1" * 2000 + b"}", "application/json", 413, "longer than 1000 bytes"),
    ],
)
async def test_a_body_that_does_not_fit_is_a_problem_without_its_values(
    tmp_path: Path, content: bytes, media_type: str, status: int, said: str
) -> None:
    cards = service(tmp_path)
    app = an_app(cards)
    async with app.router.lifespan_context(app), client(app) as asks:
        for headers in ({}, {"Idempotency-Key": "k"}):
            answer = await asks.post("/send", content=content, headers={"Content-Type": media_type, **headers})
            assert (answer.status_code, answer.json()["status"]) == (status, status)
            assert said in answer.text
            assert "secret" not in answer.text
        assert await heads(cards) == 0


async def test_what_comes_before_the_step_decides_who_gets_in_and_each_path_names_its_methods(tmp_path: Path) -> None:
    cards = service(tmp_path)
    app = an_app(cards)
    async with app.router.lifespan_context(app), client(app) as asks:
        with pytest.raises(AssertionError, match="AuthenticationMiddleware"):  # nobody says who is authenticated
            await asks.post("/guarded", headers={"Idempotency-Key": "k"})
        with pytest.raises(UsageError, match="POST /nothing returned a dict, expected a Response"):
            await asks.post("/nothing")
        wrong = await asks.delete("/send")
        malformed = await asks.post("/send", json={"number": 1}, headers={"X-Correlation-Id": ""})
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert (malformed.status_code, malformed.json()["header"]) == (400, "X-Correlation-Id")


async def test_probes_metrics_and_the_document_are_arguments_and_come_first(tmp_path: Path) -> None:
    cards, parcels = service(tmp_path), service(tmp_path, "parcels")
    everything = Mount("/", app=Starlette())
    app = Starlette(routes=[everything])
    install(app, cards, work=False, health=True, metrics=True, asyncapi=True)
    with pytest.raises(UsageError, match=r"health=.*answer for cards already.*health_routes\(parcels, \.\.\.\)"):
        install(app, parcels, health=True)
    with pytest.raises(UsageError, match=r"metrics=.*answer for cards already"):
        install(app, parcels, metrics=True)
    install(app, parcels, work=False)
    app.router.routes.insert(
        0, Mount("/parcels", routes=[*health_routes(parcels, ReadyLimits(details=True)), metrics_route(parcels)])
    )
    async with app.router.lifespan_context(app), client(app) as asks:
        assert [(await asks.get(path)).status_code for path in PROBES] == [200] * 5
        assert 'service="parcels"' in (await asks.get("/parcels/metrics")).text
        assert (await asks.get("/asyncapi.json")).json()["info"]["title"] == "cards"
        assert (await asks.get("/parcels/readyz")).status_code == 200
    async with client(app) as asks:
        assert [(await asks.get(path)).status_code for path in PROBES[:3]] == [200, 503, 503]


async def test_where_it_cannot_be_installed_is_said(tmp_path: Path) -> None:
    cards = service(tmp_path)
    with pytest.raises(UsageError, match=r"take that of \.fastapi"):
        install(FastAPI(), cards)
    with pytest.raises(UsageError, match="wants the service"):
        install(Starlette(), "cards")  # type: ignore[arg-type]  # the point of the test
    started = Starlette()
    async with client(started) as asks:
        await asks.get("/")
    with pytest.raises(UsageError, match="after the app has started"):
        install(started, cards)

    @in_step(cards)
    async def alone(request: Request, step: Step) -> Response:
        return Response()

    async with client(Starlette(routes=[Route("/alone", alone)])) as asks:
        with pytest.raises(UsageError, match=r"GET /alone: @in_step\(cards\) in an app in which nothing is installed"):
            await asks.get("/alone")


#: What an application does where Starlette is installed and FastAPI is not.
_WITHOUT = """
import asyncio, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fastapi", "pydantic", "prometheus_client", "opentelemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from ensue import Event, Service
from ensue.integrations.starlette import in_step, install

class CardRead(Event, topic="cards-read", key="number"):
    number: int

cards = Service("cards", database="sqlite:///cards.db", broker="memory://")

@in_step(cards)
async def read(request, step):
    return JSONResponse(step.publish(CardRead(number=1)))

app = Starlette(routes=[Route("/read", read, methods=["POST"])])
install(app, cards, health=True, asyncapi=True, tokens=True)

async def main():
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), client as asks:
        answers = [await asks.post("/read", headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert [each.status_code for each in answers] == [200, 200] and answers[0].text == answers[1].text
        assert answers[0].headers["Ensue-Token"]
        assert (await asks.get("/none")).headers["content-type"] == "application/problem+json"
        for path in ("/livez", "/healthz", "/asyncapi.json"):
            assert (await asks.get(path)).status_code == 200, path

asyncio.run(main())
assert not {"fastapi", "pydantic"} & set(sys.modules)
try:
    import ensue.integrations.fastapi
except Exception as error:
    print(error)
"""


def test_starlette_alone_is_enough(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        'ensue.integrations.fastapi needs packages that are not installed: pip install "ensue[fastapi]"\n'
    )
