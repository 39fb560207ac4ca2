"""`install`: one call makes a service part of an app, around what the app does by itself."""

import ast
import inspect
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Request

from ensue import Event, Service, Step, UsageError
from ensue.integrations.fastapi import Options, ReadyLimits, install, step_of


class Written(Event, topic="letters", key="letter"):
    letter: int


def service(name: str, tmp_path: Path) -> Service:
    return Service(name, database=f"sqlite:///{tmp_path}/{name}.db", broker="memory://", publishes=[Written])


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_the_service_runs_around_the_lifespan_that_the_app_has(tmp_path: Path) -> None:
    letters = service("letters", tmp_path)
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with letters.step() as step:  # it is up
            seen.append(step.publish(Written(letter=1)))
        yield {"kept": "state"}
        async with letters.step() as step:  # still
            seen.append(step.publish(Written(letter=2)))

    app = FastAPI(lifespan=lifespan)
    install(app, letters)
    async with app.router.lifespan_context(app) as state:
        assert state == {"kept": "state"}
    assert len(seen) == 2
    with pytest.raises(UsageError, match=r"does not run here: use install\(app, letters\)"):
        _ = letters.runtime


async def test_a_step_is_one_annotation_and_probes_and_metrics_are_arguments(tmp_path: Path) -> None:
    letters = service("letters", tmp_path)
    app = FastAPI()
    install(app, letters, work=False, health=ReadyLimits(broker=False), metrics=True)
    LettersStep = Annotated[Step, step_of(letters)]  # a type

    @app.post("/letters")
    async def write(letter: int, step: Annotated[Step, step_of(letters)]) -> str:
        return step.publish(Written(letter=letter))

    def posted(letter: int, step: LettersStep) -> str:
        return step.publish(Written(letter=letter))

    app.post("/posted")(posted)
    async with app.router.lifespan_context(app), client(app) as asks:
        for path in ("/letters", "/posted"):
            key = {"Idempotency-Key": path}
            answers = [await asks.post(path, params={"letter": 1}, headers=key) for _ in range(2)]
            assert [each.status_code for each in answers] == [200, 200]
            assert answers[0].text == answers[1].text
        assert {(await asks.get(path)).status_code for path in ("/livez", "/healthz", "/readyz", "/metrics")} == {200}
        assert letters.runtime.worker is None


async def test_without_being_asked_no_probe_stands_in_the_way_of_the_app_s_own(tmp_path: Path) -> None:
    app = FastAPI()
    install(app, service("letters", tmp_path))

    @app.get("/healthz")
    async def own(request: Request) -> str:
        return "own"

    async with client(app) as asks:
        assert (await asks.get("/healthz")).json() == "own"
        assert (await asks.get("/metrics")).status_code == 404


async def test_one_app_may_run_two_services(tmp_path: Path) -> None:
    letters, parcels = service("letters", tmp_path), service("parcels", tmp_path)
    app = FastAPI()
    install(app, letters, health=True)
    install(app, parcels)
    async with app.router.lifespan_context(app):
        assert [each.runtime.definition.name for each in (letters, parcels)] == ["letters", "parcels"]
    assert len(app.user_middleware) == 2


@pytest.mark.parametrize(
    ("again", "why"),
    [
        ({"health": True}, "health=.*answer for letters already.*health_routes"),
        ({"metrics": True}, "metrics=.*answer for letters already.*metrics_route"),
        ({"principal": lambda request: "somebody"}, "principal=.*first call"),
        ({"body_bytes_max": 5}, "body_bytes_max=.*first call"),
    ],
)
def test_what_a_second_service_would_say_in_vain_is_refused(tmp_path: Path, again: dict[str, Any], why: str) -> None:
    app = FastAPI()
    install(app, service("letters", tmp_path), health=True, metrics=True)
    with pytest.raises(UsageError, match=why):
        install(app, service("parcels", tmp_path), **again)


def test_what_is_no_service_is_refused() -> None:
    with pytest.raises(UsageError, match="wants the service that the app runs, got 'orders'"):
        install(FastAPI(), "orders")  # type: ignore[arg-type]  # the point of the test


def test_an_option_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"install\(app, letters, helth=\.\.\.\): there are work, health, .*tokens"):
        install(FastAPI(), service("letters", tmp_path), helth=True)  # type: ignore[call-arg]  # the point of the test


def test_every_option_is_documented_where_it_is_declared() -> None:
    """Once, for all frameworks: type checkers and editors show it from there."""
    source = ast.parse(textwrap.dedent(inspect.getsource(Options))).body[0]
    assert isinstance(source, ast.ClassDef)
    body = source.body[1:]
    named = [
        each.target.id for each in body[::2] if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    ]
    assert named == list(Options.__annotations__)
    assert all(isinstance(each, ast.Expr) for each in body[1::2])
