"""Apps of Starlette as other people write them: background tasks, tries within one request, tasks, two services."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from tests.unit.integrations.test_starlette import CardSent, client, heads, service

import ensue.integrations.fastapi
from ensue import Service, Step, UsageError
from ensue.integrations.starlette import in_step, install


async def test_a_step_of_a_background_task_commits_whatever_the_answer_was(tmp_path: Path) -> None:
    cards = service(tmp_path)

    async def note() -> None:
        async with cards.step() as step:
            step.publish(CardSent(number=2))

    @in_step(cards)
    async def fails(request: Request, step: Step) -> Response:
        step.publish(CardSent(number=1))
        return Response(status_code=503, background=BackgroundTask(note))

    app = Starlette(routes=[Route("/fails", fails, methods=["POST"])])
    install(app, cards, work=False)
    async with app.router.lifespan_context(app), client(app) as asks:
        for headers in ({}, {"Idempotency-Key": "k"}):
            assert (await asks.post("/fails", headers=headers)).status_code == 503
        assert await heads(cards) == 2  # of the two background tasks


async def test_a_second_try_within_a_request_is_committed_when_it_is_answered(tmp_path: Path) -> None:
    cards = service(tmp_path)
    tries: list[int] = []

    @in_step(cards)
    async def once(request: Request, step: Step) -> Response:
        tries.append(1)
        step.publish(CardSent(number=1))
        return JSONResponse(len(tries), 503 if len(tries) == 1 else 201)

    async def twice(request: Request) -> Response:
        first = await once(request)
        return first if first.status_code < 500 else await once(request)

    app = Starlette(routes=[Route("/twice", twice, methods=["POST"])])
    install(app, cards, work=False)
    async with app.router.lifespan_context(app), client(app) as asks:
        answers = [await asks.post("/twice", headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert [(each.status_code, each.json()) for each in answers] == [(201, 2)] * 2
        assert await heads(cards) == 1


async def test_an_answer_is_kept_in_the_step_of_its_request_and_in_no_other_that_is_open(tmp_path: Path) -> None:
    """Kept where another task has a step, it would be lost with that one, and the request take effect twice."""
    cards, parcels = service(tmp_path), service(tmp_path, "parcels")
    tasks: list[asyncio.Task[None]] = []

    async def beside(opened: asyncio.Event, go_on: asyncio.Event) -> None:
        async with parcels.step():
            opened.set()
            await go_on.wait()
            raise ValueError("rolled back")

    go_on = asyncio.Event()

    @in_step(cards)
    async def send(request: Request, step: Step) -> Response:
        step.publish(CardSent(number=1))
        opened = asyncio.Event()
        tasks.append(asyncio.create_task(beside(opened, go_on)))
        await opened.wait()
        return JSONResponse(len(tasks), 201)

    app = Starlette(routes=[Route("/send", send, methods=["POST"])])
    install(app, cards, work=False)
    install(app, parcels, work=False)
    async with app.router.lifespan_context(app), client(app) as asks:
        first = await asks.post("/send", headers={"Idempotency-Key": "k"})
        go_on.set()
        assert isinstance((await asyncio.gather(*tasks, return_exceptions=True))[0], ValueError)
        again = await asks.post("/send", headers={"Idempotency-Key": "k"})
        assert await heads(cards) == 1
    assert [(each.status_code, each.json()) for each in (first, again)] == [(201, 1)] * 2


async def test_an_app_that_is_mounted_says_itself_who_asks_and_hands_out_its_own_tokens(tmp_path: Path) -> None:
    cards, parcels = service(tmp_path), service(tmp_path, "parcels")
    calls: list[int] = []

    @in_step(parcels)
    async def send(request: Request, step: Step) -> Response:
        calls.append(1)
        step.publish(CardSent(number=1))
        return JSONResponse(len(calls))

    inner = Starlette(routes=[Route("/send", send, methods=["POST"])])
    install(inner, parcels, work=False, tokens=True, principal=lambda request: request.headers["x-who"])
    app = Starlette(routes=[Mount("/inner", app=inner)])
    install(app, cards, work=False)
    async with app.router.lifespan_context(app), parcels.running(work=False), client(app) as asks:
        answers = [
            await asks.post(
                "/inner/send", headers={"Idempotency-Key": "k", "X-Who": who, "Authorization": renewed}, content=b"{}"
            )
            for who, renewed in (("ann", "1"), ("ann", "2"), ("bob", "2"))
        ]
    assert [each.json() for each in answers] == [1, 1, 2]
    assert all(each.headers["Ensue-Token"] for each in answers)
    assert not any("ensue-places" in each.headers for each in answers)


@pytest.mark.parametrize("inner_tokens", [False, True])
async def test_an_answer_of_a_mounted_app_has_its_token_when_it_is_given_again_too(
    tmp_path: Path, inner_tokens: bool
) -> None:
    """The outer app says in the answer what the mounted one has written."""
    cards = service(tmp_path)

    @in_step(cards)
    async def send(request: Request, step: Step) -> Response:
        step.publish(CardSent(number=1))
        return JSONResponse(1)

    inner = Starlette(routes=[Route("/send", send, methods=["POST"])])
    install(inner, cards, work=False, tokens=inner_tokens)
    app = Starlette(routes=[Mount("/inner", app=inner)])
    install(app, cards, work=False, tokens=True)
    async with app.router.lifespan_context(app), client(app) as asks:
        first = await asks.post("/inner/send", headers={"Idempotency-Key": "k"})
        token = {"Ensue-Token": first.headers["Ensue-Token"]}
        again = await asks.post("/inner/send", headers={"Idempotency-Key": "k", **token})
        assert await heads(cards) == 1
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Ensue-Token"] == first.headers["Ensue-Token"]
    assert "ensue-places" not in again.headers


async def test_a_second_step_after_the_answer_is_kept_is_refused_at_once_and_says_where_to_do_it(
    tmp_path: Path,
) -> None:
    """It would be done again with each try. In a request without a key it is a step like any other."""
    cards, parcels = service(tmp_path), service(tmp_path, "parcels")
    begun: list[int] = []

    @in_step(cards)
    async def send(request: Request, step: Step) -> Response:
        step.publish(CardSent(number=1))
        return JSONResponse(1)

    def then(second: Service) -> Route:
        async def two(request: Request) -> Response:
            answer = await send(request)
            async with second.step() as step:
                begun.append(1)
                step.publish(CardSent(number=1))
            return answer

        return Route(f"/{second.name}", two, methods=["POST"])

    app = Starlette(routes=[then(cards), then(parcels)])
    install(app, cards, work=False)
    install(app, parcels, work=False)
    async with app.router.lifespan_context(app), client(app) as asks:
        assert (await asks.post("/cards")).json() == 1
        assert (await heads(cards), begun) == (2, [1])
        for _ in range(2):  # also when the first answer is there
            with pytest.raises(UsageError, match=r"a second step of cards .* Do it in the first one"):
                await asks.post("/cards", headers={"Idempotency-Key": "k"})
            with pytest.raises(UsageError, match="commit before the answer is known"):
                await asks.post("/parcels", headers={"Idempotency-Key": "k"})
        assert (await heads(cards), await heads(parcels), len(begun)) == (4, 0, 3)


async def test_where_nothing_is_installed_the_message_is_right_for_the_app_it_stands_in(tmp_path: Path) -> None:
    cards = service(tmp_path)

    @in_step(cards)
    async def send(request: Request, step: Step) -> Response:
        step.publish(CardSent(number=1))
        return Response(status_code=204)

    route = Route("/send", send, methods=["POST"])
    inner, corrected, outer = Starlette(routes=[route]), Starlette(routes=[route]), FastAPI()
    ensue.integrations.fastapi.install(outer, cards, work=False)
    outer.router.routes.append(route)
    outer.mount("/inner", inner)
    outer.mount("/corrected", corrected)
    install(corrected, cards, work=False)  # as the message says
    async with outer.router.lifespan_context(outer), client(outer) as asks:
        with pytest.raises(UsageError, match=r"Annotated\[Step, step_of\(cards\)\].*ensue\.integrations\.fastapi"):
            await asks.post("/send")
        with pytest.raises(UsageError, match=r"install\(app, cards\).*\.starlette, on the mounted app too"):
            await asks.post("/inner/send")
        assert (await asks.post("/corrected/send", headers={"Idempotency-Key": "k"})).status_code == 204


def test_one_endpoint_has_one_step(tmp_path: Path) -> None:
    cards, parcels = service(tmp_path), service(tmp_path, "parcels")

    @in_step(cards)
    async def inner(request: Request, step: Step) -> Response:
        return Response()

    with pytest.raises(UsageError, match=r"@in_step\(parcels\) above @in_step\(cards\)"):
        in_step(parcels)(inner)
    with pytest.raises(UsageError, match=r"write @in_step\(orders\): got <function"):

        @in_step  # type: ignore[arg-type]  # the point of the test
        async def forgotten(request: Request, step: Step) -> Response:
            return Response()


def test_what_is_of_fastapi_is_not_installed_in_an_app_of_starlette(tmp_path: Path) -> None:
    app = Starlette()
    with pytest.raises(UsageError, match=r"fastapi on a Starlette.*take that of \.starlette"):
        ensue.integrations.fastapi.install(app, service(tmp_path))  # type: ignore[arg-type]  # the point of the test
    install(app, service(tmp_path))
