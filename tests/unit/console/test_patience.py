"""A database that hangs: whoever asks is told in time, and what was decided is decided once and whole."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection
from tests.unit.console.desk import books, client, desk_api
from tests.unit.console.test_decisions import BOOKS, WHY, ask, letter_path, rows
from tests.views.ledger import until

from ensue import UsageError
from ensue.console import Action, Actor, Authorize, NotAllowed, api, app
from ensue.console.access import why_not
from ensue.console.host import HostSilent, Patient
from ensue.console.patience import NoAnswer, within
from ensue.operations import letter_decisions


@pytest.mark.usefixtures("desk")
async def test_who_looks_is_told_when_a_database_hangs_even_if_it_hangs_on_when_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    kind, again, closed = type(books.make_store()), asyncio.Event(), asyncio.Event()
    close = kind.close

    async def closes_late(store: Any) -> None:
        await again.wait()
        await close(store)
        closed.set()

    async with client(desk_api(answer_s=0.3)) as asking, asyncio.timeout(10):
        with monkeypatch.context() as patch:
            patch.setattr("ensue.operations.letters.letter_count", hang)
            patch.setattr(kind, "close", closes_late)
            answer = await asking.get(f"{BOOKS}/letters")
            again.set()
            await closed.wait()
        assert (answer.status_code, answer.headers["content-type"]) == (504, "application/problem+json")
        assert answer.json()["type"] == "urn:ensue:problem:no-answer"
        assert "no answer within 0.3 s" in answer.json()["detail"]
        assert "nothing was changed" in answer.json()["detail"]
        assert (await asking.get(f"{BOOKS}/letters")).status_code == 200


@pytest.mark.usefixtures("desk")
async def test_a_decision_that_is_not_over_in_time_says_that_it_may_be_taken_and_is_taken_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    discard, again, over = letter_decisions.discard, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        await again.wait()
        try:
            return await discard(*arguments)
        finally:
            over.set()

    app = desk_api(answer_s=0.5)
    async with client(app) as asking, asyncio.timeout(20):
        path = await letter_path(asking, "eve") + "/discard"
        monkeypatch.setattr(letter_decisions, "discard", slow)
        said = (await ask(asking, path, 504, key="1"))["detail"]
        assert "it may have been decided, or may yet be: look at the decisions" in said
        assert await rows() == []
        assert "is at work" in (await ask(asking, path, 409, key="1"))["detail"]
        again.set()
        await over.wait()
        answers: list[httpx.Response] = []

        async def answered() -> bool:
            answers.append(await asking.post(path, json=WHY, headers={"idempotency-key": "1"}))
            return answers[-1].status_code != 409

        await until(answered, "the answer")
        answer = answers[-1]
        assert (answer.json()["state"], answer.headers["idempotency-replayed"]) == ("discarded", "true")
        assert [each.action for each in await rows()] == ["dead-letters discard"]


async def test_a_retry_that_is_ended_in_its_middle_does_not_say_that_nothing_was_changed(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut, since it goes on only while somebody reads: what it has released by then is released."""

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    (desk / "broken").unlink()
    async with books.running() as runtime, client(desk_api(answer_s=1.0)) as asking, asyncio.timeout(20):
        await runtime.ready()
        group = (await asking.get(f"{BOOKS}/groups")).json()["groups"][0]["name"]
        monkeypatch.setattr("ensue.operations.group_decisions._Watch.look", hang)
        said = (await ask(asking, f"{BOOKS}/groups/{group}/retry", 504))["detail"]
    assert "some of it may have been decided: look at the decisions" in said
    assert [each.action for each in await rows()] == ["dead-letters retry"]


def test_what_is_no_time_to_wait_is_refused_at_the_start() -> None:
    for answer_s in (0, -1, float("inf"), float("nan"), True, "30"):
        with pytest.raises(UsageError, match=r"answer_s=.*expected seconds, such as 30"):
            api(books, authorize=lambda _: None, answer_s=answer_s)  # type: ignore[arg-type]


def hanging(*, plain: bool, until: threading.Event) -> Authorize:
    """A host that says who it is when it is too late."""

    async def later(_: HTTPConnection) -> Actor:
        while not until.is_set():
            with suppress(asyncio.CancelledError):  # it does not even let itself be ended
                await asyncio.sleep(0.01)
        return Actor("boss", ["admin"])

    def blocking(_: HTTPConnection) -> Actor:
        until.wait()
        return Actor("boss", ["admin"])

    return blocking if plain else later


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("plain", [True, False], ids=["def", "async def"])
async def test_an_application_that_does_not_say_who_asks_lets_nobody_in_and_is_told_in_time(plain: bool) -> None:
    end = threading.Event()
    authorize = hanging(plain=plain, until=end)
    try:
        async with client() as asking:
            path = await letter_path(asking, "eve") + "/discard"
        async with client(api(books, authorize=authorize, answer_s=0.2)) as asking, asyncio.timeout(10):
            for answer in (
                await asking.get(f"{BOOKS}/letters"),
                await asking.post(path, json=WHY),
                await asking.get("/openapi.json"),
            ):
                assert (answer.status_code, answer.headers["content-type"]) == (504, "application/problem+json")
                assert answer.json()["type"] == "urn:ensue:problem:no-answer"
                assert "this application does not say who asks (`authorize`); nobody is let in" in answer.text
        async with client(app(books, authorize=authorize, answer_s=0.2)) as asking, asyncio.timeout(10):
            page = await asking.get("/letters")
            assert page.status_code == 504
            assert "this application does not say who asks" in page.text
        patient = Patient(authorize, 0.2)
        connection = HTTPConnection({"type": "http", "headers": []})
        why = await why_not(patient, connection, Actor("boss", ["admin"]), Action.SEE)
        assert "nobody is let in" in why  # what goes on ends: see `why_not`
    finally:
        end.set()
    assert await rows() == []


async def test_calls_that_do_not_come_back_take_no_more_threads_than_there_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ensue.console.host.CALLS_MAX", 2)
    end, connection = threading.Event(), HTTPConnection({"type": "http", "headers": []})
    patient = Patient(hanging(plain=True, until=end), 0.05)
    try:
        for said in ("no answer within 0.05 s", "no answer within 0.05 s", "2 calls of this application's `authorize`"):
            with pytest.raises(HostSilent, match=said):
                await patient(connection)
    finally:
        end.set()

    async def back() -> bool:
        try:
            return await patient(connection) == Actor("boss", ["admin"])
        except HostSilent:
            return False

    await until(back, "the threads")


async def test_what_a_plain_function_raises_is_raised_and_it_sees_the_context_of_its_request() -> None:
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("here")

    def authorize(_: HTTPConnection) -> Actor:
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("it would block the event loop")
        if variable.get() == "here":
            raise NotAllowed("not from there")
        return Actor("boss", ["admin"])

    patient, connection = Patient(authorize, 5.0), HTTPConnection({"type": "http", "headers": []})
    with pytest.raises(NotAllowed, match="not from there"):
        await patient(connection)
    variable.set("there")
    assert await patient(connection) == Actor("boss", ["admin"])


async def test_what_it_takes_to_say_who_asks_is_a_part_of_the_answer() -> None:
    since = asyncio.get_running_loop().time() - 60
    with pytest.raises(NoAnswer, match="no answer within 50 s"):
        await within(50, asyncio.sleep(3600), since=since)


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(("make", "module"), [(api, "rest.route"), (app, "web")], ids=["api", "console"])
async def test_the_time_of_an_answer_begins_before_it_is_asked_who_wants_it(
    make: Any, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_at: list[float] = []
    begun_at: list[float] = []

    async def authorize(_: HTTPConnection) -> Actor:
        asked_at.append(asyncio.get_running_loop().time())
        return Actor("boss", ["admin"])

    async def noted(answer_s: float, work: Any, *, since: float, **how: Any) -> Any:
        begun_at.append(since)
        return await within(answer_s, work, since=since, **how)

    monkeypatch.setattr(f"ensue.console.{module}.within", noted)
    async with client(make(books, authorize=authorize)) as asking:
        path = f"{BOOKS}/letters" if make is api else "/letters?service=desk_books"
        assert (await asking.get(path)).status_code == 200
    assert begun_at[0] <= asked_at[0]
