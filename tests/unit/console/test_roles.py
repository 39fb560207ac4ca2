"""Every route of the API against every role: who may ask what, written out, and nobody else."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from tests.unit.console.desk import client, desk_api, shop

from ensue.console import Action, Actor, Authorize, Role, api
from ensue.console.access import NEEDS
from ensue.console.rest import schema
from ensue.console.rest.route import ActionRoute
from ensue.errors import UsageError

READER, OPERATOR, ADMIN = Role
_S = "/services/{service}"
_L = _S + "/letters/{topic}/{partition}/{number}"
_P = _S + "/partitions/{topic}/{partition}"
_G = _S + "/gaps/{topic}/{partition}"
_SAGA = _S + "/sagas/{name}/{saga}"

#: A route that is not here fails the first test: say who may ask it.
MATRIX = {
    ("GET", "/me"): READER,
    ("GET", "/services"): READER,
    ("GET", _S): READER,
    ("GET", "/topology"): READER,
    ("GET", "/flows/{correlation_id}"): READER,
    ("GET", _S + "/decisions"): READER,
    ("GET", _S + "/letters"): READER,
    ("GET", _L): READER,
    ("POST", _L + "/retry"): OPERATOR,
    ("POST", _L + "/discard"): OPERATOR,
    ("POST", _L + "/edit"): ADMIN,
    ("POST", _S + "/letters/retry"): OPERATOR,
    ("POST", _S + "/letters/discard"): OPERATOR,
    ("POST", _S + "/letters/purge"): ADMIN,
    ("GET", _S + "/groups"): READER,
    ("POST", _S + "/groups/{group}/retry"): OPERATOR,
    ("POST", _S + "/groups/{group}/discard"): OPERATOR,
    ("POST", _P + "/pause"): OPERATOR,
    ("POST", _P + "/resume"): OPERATOR,
    ("POST", _P + "/release"): OPERATOR,
    ("GET", _S + "/gaps"): READER,
    ("POST", _G + "/accept"): ADMIN,
    ("POST", _G + "/forget"): ADMIN,
    ("POST", _G + "/rewind"): ADMIN,
    ("GET", _S + "/outbox"): READER,
    ("POST", _S + "/events"): ADMIN,
    ("GET", _S + "/epoch"): READER,
    ("POST", _S + "/epoch"): ADMIN,
    ("POST", _S + "/outbox/withdraw"): ADMIN,
    ("POST", _S + "/replay"): ADMIN,
    ("GET", _S + "/timers"): READER,
    ("POST", _S + "/timers/cancel"): ADMIN,
    ("GET", _S + "/sagas"): READER,
    ("GET", _SAGA): READER,
    ("POST", _SAGA + "/retry"): OPERATOR,
    ("POST", _SAGA + "/cancel"): OPERATOR,
    ("POST", _SAGA + "/skip"): ADMIN,
    ("POST", _S + "/sagas/retry"): OPERATOR,
    ("POST", _S + "/sagas/cancel"): OPERATOR,
    ("GET", _S + "/view"): READER,
    ("POST", _S + "/view/rebuild"): OPERATOR,
    ("POST", _S + "/view/pause"): OPERATOR,
    ("POST", _S + "/view/resume"): OPERATOR,
    ("POST", _S + "/view/swap"): OPERATOR,
    ("POST", _S + "/view/accept-missing"): ADMIN,
    ("POST", _S + "/view/rollback"): OPERATOR,
    ("POST", _S + "/view/drop"): ADMIN,
}


def path_of(template: str) -> str:
    values = {"{partition}": "0", "{number}": "1", "{topic}": "desk", "{group}": "0a", "{service}": "nobody"}
    for name, value in values.items():
        template = template.replace(name, value)
    return template.replace("{", "").replace("}", "")


def routes() -> list[tuple[str, str, ActionRoute]]:
    return [(method, each.path_format, each) for each in schema.routes() for method in sorted(each.methods or ())]


def test_the_matrix_has_every_route_and_each_action_has_one() -> None:
    assert {(method, path) for method, path, _ in routes()} == set(MATRIX)
    assert {route.action for _, _, route in routes()} == set(Action)
    assert all(NEEDS[route.action] is MATRIX[method, path] for method, path, route in routes())


def test_what_looks_is_a_get_and_what_decides_is_a_post() -> None:
    assert all((method == "POST") is route.action.decides for method, _, route in routes())


async def test_each_route_lets_in_who_may_and_nobody_else() -> None:
    app = desk_api()
    async with client(app) as asking:
        for method, path in MATRIX:
            for role in ("", *Role):
                answer = await asking.request(method, path_of(path), headers={"x-roles": role}, json={})
                refused = role == "" or not Role(role).covers(MATRIX[method, path])
                assert (answer.status_code == 403) is refused, (method, path, role, answer.text)
                if refused:
                    assert f"needs {MATRIX[method, path].value}" in answer.json()["detail"]


async def test_nobody_gets_in_unknown_nor_through_another_site_s_page() -> None:
    transport = httpx.ASGITransport(desk_api())
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as asking:
        for method, path in [*MATRIX, ("GET", "/openapi.json")]:
            answer = await asking.request(method, path_of(path), json={})
            assert answer.status_code == 401, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            known = {"x-user": "ann", "sec-fetch-site": "cross-site"}
            answer = await asking.request(method, path_of(path), json={}, headers=known)
            assert (answer.status_code == 403) is (method == "POST"), (method, path)


async def test_a_body_is_not_looked_at_before_who_sends_it() -> None:
    async with client(roles="reader") as asking:
        answer = await asking.post("/services/desk_books/letters/retry", content=b"{no json")
        assert answer.status_code == 403


async def test_another_origin_may_decide_where_the_host_says_so() -> None:
    headers = {"origin": "https://desk.example", "sec-fetch-site": "cross-site"}
    for origins, status in (((), 403), (("https://desk.example",), 422)):
        async with client(desk_api(origins=origins)) as asking:
            answer = await asking.post("/services/nobody/letters/retry", json={}, headers=headers)
            assert answer.status_code == status


async def test_the_host_s_own_refusal_answers_as_it_says_and_its_faults_let_nobody_in() -> None:
    def refuse(connection: HTTPConnection) -> Actor:
        raise HTTPException(401, "log in", {"WWW-Authenticate": "Bearer"})

    async with client(api(shop, authorize=refuse)) as asking:
        answer = await asking.get("/me")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    faults: list[Authorize] = [lambda connection: True, lambda connection: Actor("ann", ["root"])]  # type: ignore[list-item,return-value]
    for fault in faults:
        transport = httpx.ASGITransport(api(shop, authorize=fault), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://desk") as asking:
            for path in ("/me", "/openapi.json"):
                answer = await asking.get(path)
                assert answer.status_code == 500
                assert "root" not in answer.text  # its log says more


def test_an_api_that_could_not_work_is_refused_at_its_start() -> None:
    def who(connection: HTTPConnection) -> None:
        return None

    for services, options, said in (
        ((), {}, "there is none"),
        ((shop, shop), {}, "named twice"),
        (("shop",), {}, "expected a Service"),
        ((shop,), {"authorize": None}, "authorize=None"),
        ((shop,), {"payloads": "all"}, "expected one of none, masked, limited, full"),
        ((shop,), {"origins": ["desk.example"]}, "expected scheme and host alone"),
    ):
        with pytest.raises(UsageError, match=said):
            api(*services, **{"authorize": who, **options})  # type: ignore[arg-type]


def test_a_route_that_says_no_action_is_refused_at_its_start() -> None:
    router = APIRouter(route_class=ActionRoute)
    with pytest.raises(UsageError, match="says no action"):
        router.get("/new")(lambda: None)
