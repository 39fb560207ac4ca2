"""An answer belongs to who asked: nobody else gets it, and nobody at all before the route has let them in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

import ensue.testing
from ensue import Event, Service, Step, UsageError
from ensue.integrations.fastapi import StepRoute, install

KEY = {"Idempotency-Key": "k"}


class Ordered(Event, topic="t-principals", key="who"):
    who: str


shop = Service("shop-principals", publishes=[Ordered])
ShopStep = Annotated[Step, Depends(shop.step, scope="function")]


def user(authorization: Annotated[str, Header()]) -> str:
    if authorization not in ("alice", "bob"):
        raise HTTPException(401)
    return authorization


User = Annotated[str, Depends(user)]
bearer = HTTPBearer()


def bearer_user(given: Annotated[HTTPAuthorizationCredentials, Security(bearer)]) -> str:
    return user(given.credentials)


async def noting(step: ShopStep) -> str:
    """A dependency with an effect in the step."""
    step.publish(Ordered(who="noted"))
    return "noted"


kept_keys: list[str] = []
late: list[asyncio.Task[None]] = []


async def order_later() -> None:
    await asyncio.sleep(0.05)  # the request has ended by then
    async with shop.step() as step:
        step.publish(Ordered(who="late"))


async def starts_a_task() -> None:
    late.append(asyncio.create_task(order_later()))


def make_app(principal: Callable[[Request], str] | None = None) -> FastAPI:
    app = FastAPI()
    if principal is None:
        install(app, shop)
    else:
        install(app, shop, principal=principal)

    def order(who: str, step: Step) -> dict[str, str]:
        kept_keys.append(step.idempotency_key)
        step.publish(Ordered(who=who))
        return {"secret of": who}

    @app.post("/user-first")
    async def user_first(who: User, step: ShopStep) -> dict[str, str]:
        return order(who, step)

    @app.post("/step-first")
    async def step_first(step: ShopStep, who: User) -> dict[str, str]:
        return order(who, step)

    @app.post("/plain-def")
    def plain_def(step: ShopStep, who: User) -> dict[str, str]:
        return order(who, step)

    @app.post("/security")
    async def secured(step: ShopStep, who: Annotated[str, Security(bearer_user)]) -> dict[str, str]:
        return order(who, step)

    @app.post("/route-dependency", dependencies=[Depends(user)])
    async def route_dependency(step: ShopStep) -> dict[str, str]:
        return order("whoever", step)

    router = APIRouter(route_class=StepRoute)

    @router.post("/included")
    async def included(step: ShopStep) -> dict[str, str]:
        return order("whoever", step)

    app.include_router(router, dependencies=[Depends(user)])

    @app.post("/asked-inside")
    async def asked_inside(request: Request, step: ShopStep) -> dict[str, str]:
        return order(request.headers.get("authorization", "nobody"), step)

    @app.post("/noted")
    async def noted(step: ShopStep, note: Annotated[str, Depends(noting)], who: User) -> dict[str, str]:
        return order(who, step)

    @app.post("/task")
    async def task(step: ShopStep, started: Annotated[None, Depends(starts_a_task)]) -> dict[str, str]:
        return order("whoever", step)

    @app.post("/unavailable")
    async def unavailable(response: Response, step: ShopStep) -> dict[str, str]:
        response.status_code = 503
        return order("whoever", step)

    @app.post("/login")
    async def login(response: Response, step: ShopStep) -> dict[str, str]:
        response.set_cookie("session", "s3cret")
        return order("whoever", step)

    return app


@pytest.fixture
async def world() -> AsyncIterator[ensue.testing.World]:
    kept_keys.clear()
    late.clear()
    async with ensue.testing.run(shop) as world:
        yield world


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test", headers=KEY
    )


@pytest.fixture
async def client(world: ensue.testing.World) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app()) as client:
        yield client


async def ordered(world: ensue.testing.World) -> list[str]:
    await world.settle()
    return sorted(each.who for each in await world.published(Ordered))


GUARDED = ["/user-first", "/step-first", "/plain-def", "/security", "/route-dependency", "/included"]


def sent_by(path: str, who: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {who}" if path == "/security" else who}


@pytest.mark.parametrize("path", [*GUARDED, "/asked-inside"])
async def test_another_principal_with_the_same_key_and_request_gets_an_answer_of_its_own(
    client: httpx.AsyncClient, world: ensue.testing.World, path: str
) -> None:
    answers = [await client.post(path, headers=sent_by(path, who)) for who in ("alice", "bob", "alice", "bob")]
    assert ["idempotency-replayed" in each.headers for each in answers] == [False, False, True, True]
    for answer, who in zip(answers, ("alice", "bob") * 2, strict=True):
        assert answer.status_code == 200
        assert answer.json()["secret of"].removeprefix("Bearer ") in (who, "whoever")
    assert len(await ordered(world)) == 2
    assert len(set(kept_keys)) == 2  # what a step hands to outside systems is told apart as well


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("principal", [None, lambda request: "everybody"], ids=["credentials", "everybody"])
@pytest.mark.parametrize("who", ["mallory", None])
async def test_who_is_not_let_in_gets_no_earlier_answer_and_does_not_learn_of_it(
    world: ensue.testing.World, path: str, principal: Callable[[Request], str] | None, who: str | None
) -> None:
    """Also where the principal says nothing, and whether the dependency comes before or after the step."""
    async with client_of(make_app(principal)) as client:
        refused = await client.post(path, headers={} if who is None else sent_by(path, who))
        assert refused.status_code in (401, 403, 422)
        assert (await client.post(path, headers=sent_by(path, "alice"))).status_code == 200
        for content in (b"", b"another request"):
            answer = await client.post(path, headers={} if who is None else sent_by(path, who), content=content)
            assert (answer.status_code, answer.json()) == (refused.status_code, refused.json())
        again = await client.post(path, headers=sent_by(path, "alice"))
        assert again.headers["idempotency-replayed"] == "true"
    assert len(await ordered(world)) == 1


async def test_nobody_can_take_a_key_away_by_using_it_first(
    client: httpx.AsyncClient, world: ensue.testing.World
) -> None:
    assert (await client.post("/step-first", headers={"Authorization": "bob"}, json={"n": 9})).status_code == 200
    answer = await client.post("/step-first", headers={"Authorization": "alice"}, json={"n": 1})
    assert (answer.status_code, answer.json()) == (200, {"secret of": "alice"})


async def test_cookies_and_api_keys_tell_principals_apart(client: httpx.AsyncClient) -> None:
    for headers in ({"Cookie": "s=1"}, {"Cookie": "s=2"}, {"X-API-Key": "1"}, {"X-API-Key": "2"}, {}):
        answers = [await client.post("/asked-inside", headers=headers) for _ in range(2)]
        assert ["idempotency-replayed" in each.headers for each in answers] == [False, True]


async def test_a_named_principal_keeps_its_answer_when_its_token_is_renewed(world: ensue.testing.World) -> None:
    def owner(request: Request) -> str:
        return request.headers["authorization"].partition(" ")[0]

    async with client_of(make_app(owner)) as client:
        answers = [
            await client.post("/asked-inside", headers={"Authorization": token})
            for token in ("alice token-1", "alice token-2", "bob token-1")
        ]
    assert [each.json()["secret of"] for each in answers] == ["alice token-1", "alice token-1", "bob token-1"]
    assert await ordered(world) == ["alice token-1", "bob token-1"]


async def test_a_principal_that_is_no_text_is_a_fault_of_the_service_not_a_shared_answer(
    world: ensue.testing.World,
) -> None:
    nothing: Any = lambda request: None  # noqa: E731
    app = make_app(nothing)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=KEY) as client:
        with pytest.raises(UsageError, match="principal= returned a NoneType, expected a str"):
            await client.post("/asked-inside")
    assert await ordered(world) == []


async def test_neither_the_clients_key_nor_its_credentials_are_stored(
    client: httpx.AsyncClient, world: ensue.testing.World
) -> None:
    headers = {"Authorization": "Basic c2VjcmV0", "Idempotency-Key": "clients-own-key"}
    await client.post("/asked-inside", headers=headers)
    books = world.runtimes[shop.name].context.books
    async with world.runtimes[shop.name].store.transaction() as transaction:
        assert await books.answer(transaction, "clients-own-key") is None
        stored = await books.answer(transaction, kept_keys[0])
    assert stored is not None
    for text in (stored.key, stored.fingerprint, *stored.headers.values()):
        assert "clients-own-key" not in text
        assert "c2VjcmV0" not in text


async def test_what_dependencies_did_in_the_step_of_an_answered_request_is_undone(
    client: httpx.AsyncClient, world: ensue.testing.World
) -> None:
    for _ in range(3):
        assert (await client.post("/noted", headers={"Authorization": "alice"})).json() == {"secret of": "alice"}
    assert await ordered(world) == ["alice", "noted"]


async def test_a_task_that_outlives_an_answered_request_commits_steps_of_its_own(
    client: httpx.AsyncClient, world: ensue.testing.World
) -> None:
    for _ in range(2):
        await client.post("/task")
    await asyncio.gather(*late)
    assert await ordered(world) == ["late", "late", "whoever"]


async def test_a_5xx_that_a_route_returned_has_committed_so_it_is_kept_and_not_done_again(
    client: httpx.AsyncClient, world: ensue.testing.World
) -> None:
    answers = [await client.post("/unavailable") for _ in range(3)]
    assert [each.status_code for each in answers] == [503] * 3
    assert ["idempotency-replayed" in each.headers for each in answers] == [False, True, True]
    assert await ordered(world) == ["whoever"]


async def test_a_cookie_that_was_set_is_not_set_again(client: httpx.AsyncClient) -> None:
    first = await client.post("/login")
    client.cookies.clear()
    again = await client.post("/login")
    assert "set-cookie" in first.headers
    assert (again.headers["idempotency-replayed"], again.headers.get("set-cookie")) == ("true", None)


@pytest.mark.parametrize("keys", [["a", "b"], [""], ["x" * 256], ["a\tb"], ["a\0b"], ["\xff"]])
async def test_a_key_that_is_none_is_400(
    client: httpx.AsyncClient, world: ensue.testing.World, keys: list[str]
) -> None:
    headers = [(b"idempotency-key", key.encode("latin-1")) for key in keys]
    del client.headers["Idempotency-Key"]
    answer = await client.post("/asked-inside", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:ensue:problem:malformed-header")
    assert await ordered(world) == []
