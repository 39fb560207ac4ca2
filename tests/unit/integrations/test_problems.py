"""Every error is a problem document, says what to do, and shows neither internals nor what the client sent."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from ensue import Service
from ensue.errors import EntityMissing, IdempotencyMismatch, ReplyTimeout, StoreUnavailable, UsageError
from ensue.integrations.fastapi import Problem, StepRoute, install, problem_responses

MEMBERS = {"type", "title", "status", "detail", "instance"}


class Amount(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    name: str = ""


def make_app() -> FastAPI:
    app = FastAPI()
    install(app, Service("shop"))

    @app.post("/amounts", responses=problem_responses(404))
    async def add(amount: Amount) -> Amount:
        return amount

    @app.get("/amounts")
    async def find(least: Annotated[int, Query(ge=1)] = 1) -> int:
        return least

    raised: dict[str, Exception] = {
        "problem": Problem(
            409, "Not yet", "Wait for it", type="urn:test:not-yet", headers={"Retry-After": "1"}, seconds=3
        ),
        "bare": Problem(404),
        "http": HTTPException(403, "Not you"),
        "info": HTTPException(400, {"field": "x"}),
        "unmodified": HTTPException(304),
        "store": StoreUnavailable("the disk /secret/place is full"),
        "late": ReplyTimeout("no answer to secret", id="secret", timeout_s=1.0),
        "entity": EntityMissing("no entity", entity="X", entity_id=1),
        "mismatch": IdempotencyMismatch("key k", key="k"),
        "usage": UsageError("write /secret/place instead"),
        "fault": RuntimeError("password hunter2"),
    }

    @app.get("/raise/{what}")
    async def fail(what: str) -> None:
        raise raised[what]

    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def document(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(answer.text, parse_constant=pytest.fail)
    assert found.keys() >= MEMBERS
    assert found["status"] == status
    return found


async def test_problem_of_a_user_carries_its_type_title_detail_members_and_headers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/raise/problem")
    assert document(answer, 409) == {
        "type": "urn:test:not-yet",
        "title": "Not yet",
        "status": 409,
        "detail": "Wait for it",
        "instance": "/raise/problem",
        "seconds": 3,
    }
    assert answer.headers["retry-after"] == "1"


async def test_problem_with_a_status_alone_says_what_the_status_says(client: httpx.AsyncClient) -> None:
    found = document(await client.get("/raise/bare"), 404)
    assert (found["type"], found["title"]) == ("about:blank", "Not Found")


async def test_http_exceptions_become_problems(client: httpx.AsyncClient) -> None:
    found = document(await client.get("/raise/http"), 403)
    assert (found["title"], found["detail"]) == ("Forbidden", "Not you")
    assert document(await client.get("/raise/info"), 400)["info"] == {"field": "x"}


async def test_answer_that_may_have_no_body_has_none(client: httpx.AsyncClient) -> None:
    answer = await client.get("/raise/unmodified")
    assert (answer.status_code, answer.content) == (304, b"")


async def test_unknown_path_and_method_are_problems(client: httpx.AsyncClient) -> None:
    assert document(await client.get("/nowhere"), 404)["instance"] == "/nowhere"
    answer = await client.delete("/amounts")
    document(answer, 405)
    assert answer.headers["allow"]


async def test_instance_is_a_uri_whatever_the_path_holds(client: httpx.AsyncClient) -> None:
    found = document(await client.get("/no%22where%C3%A9%0A"), 404)
    assert found["instance"] == "/no%22where%C3%A9%0A"


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"amount": "much"}, "body.amount"),
        ({"amount": -1}, "body.amount"),
        ({}, "body.amount"),
        ({"amount": 1, "other": 2}, "body.other"),
        ([], "body"),
        (None, "body"),
    ],
)
async def test_invalid_body_names_the_field(client: httpx.AsyncClient, body: object, location: str) -> None:
    found = document(await client.post("/amounts", json=body), 422)
    assert [error["location"] for error in found["errors"]] == [location]
    assert found["errors"][0]["message"]


async def test_invalid_query_names_the_parameter(client: httpx.AsyncClient) -> None:
    found = document(await client.get("/amounts?least=0"), 422)
    assert found["errors"][0]["location"] == "query.least"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_what_is_no_number_is_never_echoed(client: httpx.AsyncClient, number: str) -> None:
    answer = await client.post(
        "/amounts", content=f'{{"amount": {number}}}', headers={"content-type": "application/json"}
    )
    document(answer, 422)
    assert number not in answer.text


async def test_huge_input_is_never_echoed(client: httpx.AsyncClient) -> None:
    answer = await client.post("/amounts", json={"amount": "9" * 100_000, "k" * 100_000: 1})
    document(answer, 422)
    assert len(answer.content) < 2_000


async def test_many_wrong_fields_are_cut_to_a_few(client: httpx.AsyncClient) -> None:
    answer = await client.post("/amounts", json={f"field{number}": 1 for number in range(1000)})
    assert 1 < len(document(answer, 422)["errors"]) <= 20


async def test_lone_surrogate_in_a_name_is_answered_in_utf8(client: httpx.AsyncClient) -> None:
    content = b'{"amount": 1, "\\ud800": 1}'
    answer = await client.post("/amounts", content=content, headers={"content-type": "application/json"})
    document(answer, 422)
    answer.content.decode("utf-8")


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"no json", b'{"amount": 1', b"\xff\xfe", b'{"amount": ' + b"9" * 5000 + b"}", b"[" * 100_000
    ],
)  # fmt: skip
async def test_malformed_body_is_a_client_error(client: httpx.AsyncClient, content: bytes) -> None:
    answer = await client.post("/amounts", content=content, headers={"content-type": "application/json"})
    document(answer, 400)


async def test_malformed_json_says_where(client: httpx.AsyncClient) -> None:
    content = b'{"amount": oops}'
    answer = await client.post("/amounts", content=content, headers={"content-type": "application/json"})
    assert "character 11" in document(answer, 400)["detail"]


async def test_body_of_another_content_type_is_refused_with_what_to_send(client: httpx.AsyncClient) -> None:
    answer = await client.post("/amounts", content=b'{"amount": 1}', headers={"content-type": "text/plain"})
    assert "application/json" in document(answer, 415)["detail"]


@pytest.mark.parametrize("what", ["store", "entity"])
async def test_retryable_error_is_503_with_retry_after(client: httpx.AsyncClient, what: str) -> None:
    answer = await client.get(f"/raise/{what}")
    document(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert "secret" not in answer.text


async def test_an_answer_that_does_not_come_is_504_and_not_to_be_asked_for_again(client: httpx.AsyncClient) -> None:
    answer = await client.get("/raise/late")
    assert document(answer, 504)["type"] == "urn:ensue:problem:reply-timeout"
    assert "retry-after" not in answer.headers
    assert "secret" not in answer.text


async def test_a_path_and_an_error_are_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    install(app, Service("shop"))

    @app.get("/raise/{text:path}")
    async def fail(text: str) -> None:
        raise StoreUnavailable(f"{text}\nforged")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.get("/raise/a%0d2026-01-01 CRITICAL root: forged%1b[2J%e2%80%a8%e2%80%ae")
    [said] = [record.getMessage() for record in caplog.records if record.name == "ensue.http"]
    assert said.endswith(r"503: a\r2026-01-01 CRITICAL root: forged\x1b[2J\u2028\u202e\nforged")
    assert said.isprintable()


async def test_idempotency_mismatch_is_422(client: httpx.AsyncClient) -> None:
    assert "new key" in document(await client.get("/raise/mismatch"), 422)["detail"]


@pytest.mark.parametrize("what", ["usage", "fault"])
async def test_fault_is_500_without_internals_and_reaches_the_server_s_log(
    client: httpx.AsyncClient, what: str
) -> None:
    answer = await client.get(f"/raise/{what}")
    document(answer, 500)
    assert "secret" not in answer.text
    assert "hunter2" not in answer.text
    transport = httpx.ASGITransport(make_app())  # raises what the application raises, as a server logs it
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as strict:
        with pytest.raises((UsageError, RuntimeError)):
            await strict.get(f"/raise/{what}")


async def test_correlation_id_of_the_client_comes_back_on_answers_and_problems(client: httpx.AsyncClient) -> None:
    headers = {"X-Correlation-Id": "flow-7"}
    assert (await client.get("/amounts", headers=headers)).headers["x-correlation-id"] == "flow-7"
    assert (await client.get("/raise/bare", headers=headers)).headers["x-correlation-id"] == "flow-7"
    assert (await client.get("/amounts")).headers["x-correlation-id"]


@pytest.mark.parametrize("value", [b"", b"x" * 256, b"caf\xc3\xa9", b"a\tb"])
@pytest.mark.parametrize("name", ["X-Correlation-Id", "Idempotency-Key"])
async def test_malformed_header_is_named(client: httpx.AsyncClient, name: str, value: bytes) -> None:
    answer = await client.post("/amounts", json={"amount": 1}, headers=[(name.encode(), value)])
    assert document(answer, 400)["header"] == name


async def test_openapi_tells_of_problem_documents_and_of_the_key() -> None:
    schema = make_app().openapi()
    post = schema["paths"]["/amounts"]["post"]
    for status in ("400", "404", "413", "415", "422", "503"):
        content = post["responses"][status]["content"]
        assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert "Idempotency-Key" in [parameter["name"] for parameter in post["parameters"]]
    assert "Idempotency-Key" not in json.dumps(schema["paths"]["/amounts"]["get"])
    assert "HTTPValidationError" not in json.dumps(schema)
    assert schema["components"]["schemas"]["Problem"]["properties"].keys() >= MEMBERS


async def test_openapi_keeps_a_422_that_the_user_described() -> None:
    app = FastAPI()
    install(app, Service("shop"))

    @app.post("/x", responses={422: {"model": Amount}})
    async def x(amount: Amount) -> None: ...

    described = app.openapi()["paths"]["/x"]["post"]["responses"]["422"]["content"]
    assert described == {"application/json": {"schema": {"$ref": "#/components/schemas/Amount"}}}


async def test_routers_of_the_user_take_the_route_class() -> None:
    app = FastAPI()
    install(app, Service("shop"))
    router = APIRouter(route_class=StepRoute, prefix="/sub")

    @router.get("/path")
    async def path(request: Request) -> str:
        return request.url.path

    app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/sub/path")
    assert answer.json() == "/sub/path"
    assert answer.headers["x-correlation-id"]


def test_install_after_a_route_says_where_to_call_it() -> None:
    app = FastAPI()

    @app.get("/")
    async def root() -> None: ...

    with pytest.raises(UsageError, match=r"right after FastAPI"):
        install(app, Service("shop"))


def test_nan_in_a_user_s_member_is_still_json() -> None:
    from ensue.integrations.problems import response

    scope = {"type": "http", "path": "/", "headers": []}
    answer = response(Request(scope), 400, found=math.nan, who=object)
    json.loads(bytes(answer.body), parse_constant=pytest.fail)


async def test_allow_lists_the_methods_of_all_routes_of_a_path(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/amounts")).headers["allow"] == "GET, POST"
    assert (await client.post("/raise/fault")).headers["allow"] == "GET"
