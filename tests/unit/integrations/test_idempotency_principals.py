"""An answer belongs to who asked: nobody else gets it, and nobody at all before the route has let them in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.authentication import SimpleUser, UnauthenticatedUser
from starlette.types import Receive, Scope, Send

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


async def test_the_host_tells_nobody_apart_unless_the_principal_names_it(world: ensue.testing.World) -> None:
    """A client that balances its tries over the addresses of several processes sends the second one to another host."""
    hosts = [{"Host": host} for host in ("a.example.org", "b.example.org")]
    async with client_of(make_app()) as client:
        answers = [await client.post("/asked-inside", headers=each) for each in hosts]
    assert ["idempotency-replayed" in each.headers for each in answers] == [False, True]
    async with client_of(make_app(lambda request: f"{request.url.hostname}/somebody")) as client:
        answers = [await client.post("/asked-inside", headers=each) for each in (*hosts, hosts[0])]
    assert ["idempotency-replayed" in each.headers for each in answers] == [False, False, True]


async def test_cookies_and_api_keys_tell_principals_apart(client: httpx.AsyncClient) -> None:
    for headers in (
        {"Cookie": "s=1"}, {"Cookie": "s=2"}, {"X-API-Key": "1"}, {"X-API-Key": "2"}, {},
        {"X-Forwarded-User": "1"}, {"X-Forwarded-User": "2"}, {"Remote-User": "1"}, {"X-Auth-Request-Email": "1"},
        {"Cf-Access-Jwt-Assertion": "1"}, {"X-Forwarded-Client-Cert": "Hash=1"}, {"SSL-Client-Subject": "CN=1"},
        {"X-Goog-Authenticated-User-Id": "1"}, {"X-Session": "1"}, {"X-Tenant-Id": "1"}, {"X-MS-Client-Principal": "1"},
        {"Authorization": "1", "Cookie": "s=1"}, {"Authorization": "1", "Cookie": "s=2"},
    ):  # fmt: skip
        answers = [await client.post("/asked-inside", headers=headers) for _ in range(2)]
        assert ["idempotency-replayed" in each.headers for each in answers] == [False, True]


async def test_what_differs_between_two_tries_of_one_client_makes_no_other_principal(client: httpx.AsyncClient) -> None:
    for number, replayed in ((1, False), (2, True)):
        headers = {
            name: str(number)
            for name in (
                "User-Agent",
                "Ensue-Token",
                "Traceparent",
                "X-Request-Id",
                "X-Forwarded-For",
                "X-Amzn-Trace-Id",
                "Date",
            )
        }
        answer = await client.post("/asked-inside", headers=headers)
        assert ("idempotency-replayed" in answer.headers) == replayed


class Named(SimpleUser):
    """As an application writes one that knows no identity."""

    @property
    def identity(self) -> str:
        raise NotImplementedError


@pytest.mark.parametrize("kind", [SimpleUser, Named])
async def test_users_whom_a_middleware_names_and_clients_certificates_are_told_apart(
    world: ensue.testing.World, kind: type[SimpleUser]
) -> None:
    app = make_app()
    scopes: list[dict[str, Any]] = [
        {"user": kind("alice")},
        {"user": kind("bob")},
        {"user": UnauthenticatedUser()},
        {"extensions": {"tls": {"client_cert_name": "CN=alice"}}},
        {"extensions": {"tls": {"client_cert_name": "CN=bob"}}},
    ]

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, **scopes[int(scope["query_string"])]}, receive, send)

    principals = set()
    for number in range(len(scopes)):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(named), base_url="http://test") as client:
            answers = [await client.post(f"/asked-inside?{number}", headers=KEY) for _ in range(2)]
        assert ["idempotency-replayed" in each.headers for each in answers] == [False, True]
        principals.add(kept_keys[-1])
    assert len(principals) == len(scopes)


async def test_who_asks_is_the_same_to_an_app_that_is_mounted(world: ensue.testing.World) -> None:
    app, mounted = FastAPI(), FastAPI()
    install(app, shop, principal=lambda request: request.headers["who"])
    mounted.router.route_class = StepRoute
    app.mount("/mounted", mounted)

    @mounted.post("/order")
    async def order(step: ShopStep) -> str:
        step.publish(Ordered(who="x"))
        return "ordered"

    async with client_of(app) as client:
        answers = [
            await client.post("/mounted/order", headers={"who": who, "Authorization": token})
            for who, token in (("alice", "1"), ("alice", "2"), ("bob", "2"))
        ]
    assert ["idempotency-replayed" in each.headers for each in answers] == [False, True, False]


async def test_a_router_that_is_included_twice_has_two_routes(world: ensue.testing.World) -> None:
    app = FastAPI()
    install(app, shop)
    router = APIRouter(route_class=StepRoute)

    @router.post("/order")
    async def order(step: ShopStep) -> str:
        step.publish(Ordered(who="x"))
        return step.idempotency_key

    app.include_router(router, prefix="/open")
    app.include_router(router, prefix="/guarded", dependencies=[Depends(user)])
    async with client_of(app) as client:
        first = await client.post("/open/order")
        assert (await client.post("/guarded/order")).status_code == 422  # user() wants the header
        guarded = await client.post("/guarded/order", headers={"Authorization": "alice"})
        assert "idempotency-replayed" not in guarded.headers
        assert guarded.json() != first.json()
        assert (await client.post("/guarded/order", headers={"Authorization": "mallory"})).status_code == 401


async def test_dependencies_of_the_whole_app_and_scopes_come_before_an_earlier_answer(
    world: ensue.testing.World,
) -> None:
    def allowed(scopes: SecurityScopes, authorization: Annotated[str, Header()]) -> None:
        if not set(scopes.scopes) <= set(authorization.split()):
            raise HTTPException(403)

    app = FastAPI(dependencies=[Security(allowed, scopes=["app"])])
    install(app, shop, principal=lambda request: "everybody")

    @app.post("/order", dependencies=[Security(allowed, scopes=["write"])])
    async def order(step: ShopStep) -> str:
        return "ordered"

    async with client_of(app) as client:
        sent = ["app write", "app", "write", "app write"]
        answers = [await client.post("/order", headers={"Authorization": each}) for each in sent]
    assert [each.status_code for each in answers] == [200, 403, 403, 200]
    assert ["idempotency-replayed" in each.headers for each in answers] == [False, False, False, True]


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


async def test_a_5xx_that_a_route_returned_is_rolled_back_and_not_kept_so_that_it_can_be_tried_again(
    client: httpx.AsyncClient, world: ensue.testing.World
) -> None:
    answers = [await client.post("/unavailable") for _ in range(3)]
    assert [each.status_code for each in answers] == [503] * 3
    assert ["idempotency-replayed" in each.headers for each in answers] == [False, False, False]
    assert await ordered(world) == []


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
