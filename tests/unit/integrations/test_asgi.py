"""An app of another ASGI framework: a bare one here, and one of Litestar, both by the same middleware."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar, Request, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.params import JSONBody
from litestar.types import Scope as LitestarScope
from starlette.types import Message, Receive, Scope, Send

from ensue import Event, Service, Step, UsageError
from ensue.engine.faults import Faults
from ensue.errors import StoreUnavailable
from ensue.integrations.asgi import Problem, in_step, install_around, problem_of, step_in
from ensue.integrations.starlette import install

KEY = {"Idempotency-Key": "k"}


class BallThrown(Event, topic="balls-thrown", key="number"):
    number: int


class NewBall(msgspec.Struct):
    number: int


def service(tmp_path: Path, name: str = "balls") -> Service:
    return Service(name, database=f"sqlite:///{tmp_path}/{name}.db", broker="memory://", publishes=[BallThrown])


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as asks,
    ):
        yield asks


async def thrown(balls: Service) -> int:
    """How many events are in its outbox: all of them are of one partition."""
    return sum((await balls.runtime.store.outbox_heads()).values())


async def messages_of(app: Any, gone: bool = False) -> list[Message]:
    """All that a server would be sent for a POST; gone: its client is, once the body has been read."""
    sent: list[Message] = []
    came = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if came:
            return came.pop()
        if not gone:
            await asyncio.Event().wait()  # as a client that stays
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/throw", "raw_path": b"/throw", "root_path": "", "query_string": b"", "headers": [(b"host", b"test")],
        "server": ("test", 80), "client": ("test", 1),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


async def answer(send: Send, status: int, body: bytes = b"", *more: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1"), (b"x-own", b"2")]})
    for part in (body, *more)[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": (body, *more)[-1]})


async def _say(send: Send, message: Message) -> None:
    await send(message)


class Bare:
    """An application as ASGI's specification has it. calls: of those who were let in."""

    def __init__(self) -> None:
        self.calls = 0
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        path = scope["path"]
        if scope["method"] == "GET":
            with pytest.raises(UsageError, match=r"GET .* is in no step"):
                step_in(scope)
            return await answer(send, 200, b"got")
        if (b"authorization", b"nobody") in scope["headers"]:
            return await answer(send, 401, b"who are you")
        if path == "/without":
            return await answer(send, 200, b"no step")
        step = step_in(scope)
        self.calls += 1
        step.publish(BallThrown(number=1))
        body = b""
        while True:
            message: Message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if path == "/raises":
            raise ValueError("no")
        if path == "/problem":
            raise Problem(409, "Taken", detail="somebody has the ball")
        if path == "/silent":
            return None
        if self.before is not None:
            await self.before()
        if path == "/other-task":
            await asyncio.create_task(answer(send, 201, body, b"%d" % self.calls))
        else:
            await answer(send, int(path[1:]) if path[1:].isdigit() else 201, body, b"%d" % self.calls)
        if self.after is not None:
            await self.after()
        return None


@pytest.mark.parametrize("path", ["/throw", "/other-task"])
async def test_an_answer_is_kept_in_the_step_and_given_again_with_its_token(tmp_path: Path, path: str) -> None:
    balls, bare = service(tmp_path), Bare()
    async with client(install_around(in_step(balls)(bare), balls, work=False, tokens=True)) as asks:
        first, again = [await asks.post(path, content=b"ball", headers=KEY) for _ in range(2)]
        other = await asks.post(path, content=b"another", headers=KEY)
        refused = await asks.post(path, content=b"ball", headers={**KEY, "Authorization": "nobody"})
        assert await thrown(balls) == 1
        assert (await asks.get(path, headers={"Ensue-Token": first.headers["Ensue-Token"]})).text == "got"
        assert (await asks.get(path, headers={"Ensue-Token": "nonsense"})).status_code == 400
    assert [each.text for each in (first, again)] == ["ball1", "ball1"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["x-own"] == "1, 2"
    assert first.headers["Ensue-Token"]
    assert again.headers["Ensue-Token"] == first.headers["Ensue-Token"]
    assert (other.status_code, other.json()["title"]) == (422, "Idempotency-Key used before")
    assert (refused.status_code, refused.text) == (401, "who are you")
    assert bare.calls == 1  # the app stops where it asks for the step


async def test_who_is_not_let_in_any_more_gets_no_earlier_answer(tmp_path: Path) -> None:
    balls, bare = service(tmp_path), Bare()
    app = install_around(in_step(balls)(bare), balls, work=False, principal=lambda request: "everybody")
    async with client(app) as asks:
        assert (await asks.post("/throw", headers=KEY)).text == "1"
        assert (await asks.post("/throw", headers={**KEY, "Authorization": "nobody"})).text == "who are you"
        assert (await asks.post("/throw", headers=KEY)).headers["Idempotency-Replayed"] == "true"
        for _ in range(2):
            assert (await asks.post("/without", headers=KEY)).text == "no step"
        assert await thrown(balls) == 1


async def test_headers_are_read_as_applications_send_them(tmp_path: Path) -> None:
    """In any case, though ASGI says lower, and from any iterable."""
    balls = service(tmp_path)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        if scope["method"] == "POST":
            step_in(scope).publish(BallThrown(number=1))
        headers = [
            (b"Content-Type", b"text/ball"), (b"Set-Cookie", b"who=me"), (b"X-Correlation-Id", b"own"),
            (b"Location", b"/balls/1"),
        ]  # fmt: skip
        await send({"type": "http.response.start", "status": 201, "headers": (each for each in headers)})
        await send({"type": "http.response.body", "body": b"thrown"})

    around = install_around(in_step(balls)(app), balls, work=False, principal=lambda request: "everybody")
    async with client(around) as asks:
        first, again = [await asks.post("/", headers={**KEY, "X-Correlation-Id": "flow"}) for _ in range(2)]
        got = await asks.get("/")
    for each in (first, again, got):
        assert (each.text, each.headers["Content-Type"], each.headers["Location"]) == (
            "thrown",
            "text/ball",
            "/balls/1",
        )
    assert [each.headers.get_list("X-Correlation-Id") for each in (first, again, got)] == [["own"], ["flow"], ["own"]]
    assert [each.headers.get("Set-Cookie") for each in (first, again, got)] == ["who=me", None, "who=me"]


async def test_an_answer_is_given_again_whatever_the_app_makes_of_the_error_it_is_left_by(tmp_path: Path) -> None:
    balls = service(tmp_path)

    async def throw(scope: Scope) -> None:
        step_in(scope).publish(BallThrown(number=1))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        if scope["path"] == "/group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(throw(scope))
        else:
            try:
                await throw(scope)
            except Exception as error:
                raise RuntimeError("no ball") from error
        await answer(send, 201, b"thrown")

    async with client(install_around(in_step(balls)(app), balls, work=False)) as asks:
        for path in ("/group", "/of-its-own"):
            first, again = [await asks.post(path, headers=KEY) for _ in range(2)]
            other = await asks.post(path, content=b"another", headers=KEY)
            assert [each.status_code for each in (first, again, other)] == [201, 201, 422]
            assert (again.text, again.headers["Idempotency-Replayed"]) == ("thrown", "true")
        assert await thrown(balls) == 2


@pytest.mark.parametrize("path", ["/404", "/503", "/raises", "/problem", "/silent"])
async def test_a_step_is_rolled_back_for_an_error_and_may_be_tried_again(tmp_path: Path, path: str) -> None:
    balls, bare = service(tmp_path), Bare()
    async with client(install_around(in_step(balls)(bare), balls, work=False, tokens=True)) as asks:
        for calls in (1, 2):
            found = await asks.post(path, headers=KEY)
            assert found.status_code == {"/404": 404, "/503": 503, "/problem": 409}.get(path, 500)
            assert bare.calls == calls
            assert "Ensue-Token" not in found.headers
        if path == "/problem":
            assert found.json()["detail"] == "somebody has the ball"
        assert await thrown(balls) == 0


async def test_no_client_sees_an_answer_before_the_commit_or_one_that_was_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    balls, bare = service(tmp_path), Bare()
    at_the_answer: list[int] = []

    async def background() -> None:
        at_the_answer.append(await thrown(balls))
        async with balls.step() as step:
            step.publish(BallThrown(number=1))

    async with client(install_around(in_step(balls)(bare), balls, work=False)) as asks:
        bare.after = background
        assert (await asks.post("/throw", headers=KEY)).status_code == 201
        assert (at_the_answer, await thrown(balls)) == ([1], 2)

        def full(self: Faults, name: str) -> None:
            if name == "step.outbox_written":
                raise StoreUnavailable("the disk is full")

        monkeypatch.setattr(Faults, "point", full)
        for path, after in (("/throw", background), ("/other-task", None)):
            bare.after = after
            refused = await asks.post(path, headers={"Idempotency-Key": "another"})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["type"] == "urn:ensue:problem:try-again"
        monkeypatch.undo()
        assert await thrown(balls) == 2
    assert at_the_answer == [1]  # nothing was answered, so nothing comes after it


async def test_an_app_gets_no_answer_of_its_own_out_when_the_commit_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    balls, told = service(tmp_path), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        step_in(scope).publish(BallThrown(number=1))
        try:
            await answer(send, 201, b"thrown")
        except OSError as error:
            told.append(str(error))
            await answer(send, 500, b"the app's own")

    def full(self: Faults, name: str) -> None:
        if name == "step.outbox_written":
            raise StoreUnavailable("the disk is full")

    around = install_around(in_step(balls)(app), balls, work=False)
    async with around.router.lifespan_context(around):
        monkeypatch.setattr(Faults, "point", full)
        sent = await messages_of(around)
        monkeypatch.undo()
        assert [each["status"] for each in sent if each["type"] == "http.response.start"] == [503]
        assert b"".join(each.get("body", b"") for each in sent).startswith(b"{")
        assert told == ["the answer was not sent, since its step has not committed"]
        assert await thrown(balls) == 0
        assert [each.get("status") for each in await messages_of(around)] == [201, None]


async def test_an_answer_in_parts_is_one_and_one_without_an_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    balls, bare = service(tmp_path), Bare()
    monkeypatch.setattr("ensue.integrations.held_answer.HELD_BYTES_MAX", 100)
    async with client(install_around(in_step(balls)(bare), balls, work=False)) as asks:
        assert (await asks.post("/throw", content=b"a" * 90)).text == "a" * 90 + "1"
        assert (await asks.post("/throw", content=b"a" * 100)).status_code == 500
        assert await thrown(balls) == 1


async def test_nothing_is_committed_for_what_is_no_answer_though_the_app_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that catches what it is told, as frameworks do: too long, begun twice, without a beginning or an end."""
    balls, calls = service(tmp_path), list[str]()
    monkeypatch.setattr("ensue.integrations.held_answer.HELD_BYTES_MAX", 100)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        step_in(scope).publish(BallThrown(number=1))
        calls.append(scope["path"])
        start: Message = {"type": "http.response.start", "status": 201, "headers": []}
        end: Message = {"type": "http.response.body", "body": b"end"}
        for message in {
            "/long": [start, {**end, "body": b"a" * 101}, end],
            "/twice": [start, {**start, "status": 500}, end],
            "/no-start": [end, start, end],
            "/after-its-end": [start, end, end],
        }[scope["path"]]:
            with suppress(UsageError):
                await asyncio.create_task(_say(send, message))  # by another task, so that nothing is over with an end

    async with client(install_around(in_step(balls)(app), balls, work=False)) as asks:
        for path in ("/long", "/twice", "/no-start", "/after-its-end"):
            for _ in range(2):
                refused = await asks.post(path, headers=KEY)
                assert (refused.status_code, refused.headers["Content-Type"]) == (500, "application/problem+json")
            assert calls == [path, path]
            calls.clear()
        assert await thrown(balls) == 0


async def test_an_app_that_ends_when_its_client_has_gone_commits_nothing_and_is_no_fault(tmp_path: Path) -> None:
    balls, begins = service(tmp_path), False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        step_in(scope).publish(BallThrown(number=1))
        if begins:
            await send({"type": "http.response.start", "status": 201, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    around = install_around(in_step(balls)(app), balls, work=False)
    async with around.router.lifespan_context(around):
        assert await messages_of(around, gone=True) == []
        begins = True
        assert await messages_of(around, gone=True) == []
        assert await thrown(balls) == 0
        async with balls.step() as step:  # the first ones have left nothing open
            step.publish(BallThrown(number=2))
        assert await thrown(balls) == 1


async def test_the_app_s_own_lifespan_is_within_the_service_s(tmp_path: Path) -> None:
    balls = service(tmp_path)
    happened: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{what}"
                assert await thrown(balls) == 0  # it runs
                scope["state"]["own"] = "kept"
                happened.append(what)
                await send({"type": f"lifespan.{what}.complete"})
        else:
            await answer(send, 200, scope["state"]["own"].encode())

    around = install_around(app, balls, work=False, health=True)
    server = Served(around)
    async with server, httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url="http://test") as asks:
        assert (await asks.get("/")).text == "kept"
        assert (await asks.get("/livez")).json() == {"status": "ok"}
        assert happened == ["startup"]
    assert happened == ["startup", "shutdown"]

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no bats"})

    with pytest.raises(UsageError, match="the app did not manage its startup: no bats"):
        async with client(install_around(fails, service(tmp_path, "bats"), work=False)):
            pass


@pytest.mark.parametrize("own_state", [False, True])
async def test_a_server_without_state_starts_an_app_that_has_none(tmp_path: Path, own_state: bool) -> None:
    balls = service(tmp_path)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        for what in ("startup", "shutdown"):
            await receive()
            if own_state:
                scope["state"]["own"] = "kept"
            await send({"type": f"lifespan.{what}.complete"})

    told: asyncio.Queue[Message] = asyncio.Queue()
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)
        await told.put({"type": "lifespan.shutdown"})

    await told.put({"type": "lifespan.startup"})
    around = install_around(app, balls, work=False)
    serving = around({"type": "lifespan", "asgi": {"version": "3.0"}}, told.get, send)
    if own_state:
        with pytest.raises(RuntimeError, match='The server does not support "state"'):
            await serving
        assert [each["type"] for each in said] == ["lifespan.startup.failed"]
    else:
        await serving
        assert [each["type"] for each in said] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_where_something_is_missing_or_twice_is_said(tmp_path: Path) -> None:
    balls, bats = service(tmp_path), service(tmp_path, "bats")
    transport = httpx.ASGITransport(in_step(balls)(Bare()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as asks:
        with pytest.raises(UsageError, match=r"serve install_around\(app, balls\)"):
            await asks.post("/throw")
    around = install_around(in_step(balls)(in_step(bats)(Bare())), balls, work=False)
    install(around, bats, work=False)
    async with (
        around.router.lifespan_context(around),
        httpx.AsyncClient(transport=httpx.ASGITransport(around), base_url="http://test") as asks,
    ):
        with pytest.raises(UsageError, match=r"in_step\(bats\) within a step of balls"):
            await asks.post("/throw")
    with pytest.raises(UsageError, match="wants the service whose step it is, got 'balls'"):
        in_step("balls")  # type: ignore[arg-type]  # the point of the test


class Served:
    """As a server calls an application: the state of its lifespan is in each request."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state: Any = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": dict(self.state)}, receive, send)

    async def __aenter__(self) -> None:
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.state = await self._lifespan.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        await self._lifespan.__aexit__(*raised)


def test_a_scope_that_is_no_requests_has_no_step() -> None:
    with pytest.raises(UsageError, match=r"^lifespan is in no step: in_step"):
        step_in({"type": "lifespan", "asgi": {"version": "3.0"}})
    with pytest.raises(UsageError, match=r"^websocket /balls is in no step: in_step"):
        step_in({"type": "websocket", "path": "/balls"})


def litestar(balls: Service, calls: list[int]) -> Litestar:
    def problem(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        said = problem_of(request.scope, error)
        return Response(said.body, status_code=said.status_code, media_type=said.media_type, headers=dict(said.headers))

    def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if connection.headers.get("x-who") == "nobody":
            raise NotAuthorizedException("who are you")

    async def balls_step(scope: LitestarScope) -> Step:
        return step_in(scope)

    async def something() -> int:
        return 1

    async def later(number: int) -> None:
        async with balls.step() as step:
            step.publish(BallThrown(number=number))

    def throw(data: JSONBody[NewBall], step: NamedDependency[Step], one: NamedDependency[int]) -> Response[Any]:
        calls.append(one)
        step.publish(BallThrown(number=1))
        if data.number == 409:
            raise Problem(409, "Taken", detail="somebody has the ball")
        if data.number == 503:
            raise StoreUnavailable("no database")
        if data.number == 500:
            raise ValueError("secret")
        background = BackgroundTask(later, 1) if data.number == 2 else None
        return Response({"calls": len(calls)}, background=background, headers={"X-Own": "kept"})

    async def throw_async(data: JSONBody[NewBall], step: NamedDependency[Step], one: NamedDependency[int]) -> Any:
        return throw(data, step, one)

    @get("/count")
    async def count() -> int:
        return await thrown(balls)

    around: Any = {
        "middleware": [in_step(balls)], "guards": [guard], "dependencies": {"step": balls_step, "one": something}
    }  # fmt: skip
    return Litestar(
        [
            post("/throw", **around)(throw_async),
            post("/thread", sync_to_thread=True, **around)(throw),
            count,
        ],
        exception_handlers={Exception: problem, Problem: problem},  # Litestar has one of its own for the second
        logging_config=None,
    )


async def test_litestar_has_keys_tokens_and_problem_documents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    balls, calls = service(tmp_path), list[int]()
    around = install_around(
        litestar(balls, calls), balls, work=False, tokens=True, principal=lambda request: "everybody"
    )
    async with client(around) as asks:
        for number, path in enumerate(("/throw", "/thread"), 1):
            first, again = [await asks.post(path, json={"number": 7}, headers=KEY) for _ in range(2)]
            assert (first.status_code, first.json()) == (201, {"calls": number})
            assert (again.status_code, again.json(), again.headers["X-Own"]) == (201, {"calls": number}, "kept")
            assert again.headers["Idempotency-Replayed"] == "true"
            assert again.headers["Ensue-Token"]
            seen = await asks.get("/count", headers={"Ensue-Token": first.headers["Ensue-Token"]})
            assert seen.json() == number
            refused = await asks.post(path, json={"number": 7}, headers={**KEY, "X-Who": "nobody"})
            assert (refused.status_code, refused.json()["detail"]) == (401, "who are you")
            assert refused.headers["content-type"] == "application/problem+json"
        assert caplog.records == []  # an answer that is given again is no error
        assert (await asks.post("/throw", json={"number": 2})).status_code == 201
        assert await thrown(balls) == 4  # and one in the background
        for sent, status, said in (
            (409, 409, "somebody has the ball"), (503, 503, "Try again"), (500, 500, "a fault"), ("x", 400, "number"),
        ):  # fmt: skip
            for headers in ({}, {"Idempotency-Key": "e"}):
                found = await asks.post("/throw", json={"number": sent}, headers=headers)
                assert (found.status_code, found.headers["content-type"]) == (status, "application/problem+json")
                assert said in json.dumps(found.json())
                assert found.json()["instance"] == "/throw"
                assert found.headers["X-Correlation-Id"]
                assert "secret" not in found.text
        assert (await asks.get("/nowhere")).json()["status"] == 404
        assert await thrown(balls) == 4
    assert [each.exc_info[1].args for each in caplog.records if each.exc_info and each.exc_info[1]] == [("secret",)] * 2
