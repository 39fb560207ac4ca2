"""What is decided by forms: who may, once for each form, only from the console's own pages, with a row for each."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable, Mapping

import pytest
from starlette.requests import Request
from tests.console.conftest import Browser, Open, admin, ask, unrepaired, until, wire
from tests.console.world import bank, desk, repair

from ensue.console import forms
from ensue.console.access import Action, Actor, Role
from ensue.console.web import ADDRESSES
from ensue.deciding import Decision
from ensue.message import DeadLetterState
from ensue.operations.decisions import decisions, opened_decisions
from ensue.operations.opening import opened

#: Every form: where it is shown, where it is sent, what it brings, and the action that it is.
FORMS: Mapping[tuple[str, str], tuple[str, Mapping[str, object], Action]] = {
    ("/letter", "retry"): ("/", {"service": "bank", "id": "wires/0:1"}, Action.LETTER_RETRY),
    ("/letter", "discard"): ("/", {"service": "bank", "id": "wires/0:1"}, Action.LETTER_DISCARD),
    ("/letter", "edit"): ("/", {"service": "bank", "id": "wires/0:1", "data": "{}"}, Action.LETTER_EDIT),
    ("/group", "retry"): ("/", {"service": "bank", "name": "none"}, Action.LETTER_RETRY),
    ("/group", "discard"): ("/", {"service": "bank", "name": "none", "count": 1}, Action.LETTER_DISCARD),
    ("/letters", "purge"): ("/", {"service": "bank", "count": 1, "days": 0}, Action.LETTER_PURGE),
    ("/refused", "withdraw"): ("/", {"service": "bank", "id": "m-1"}, Action.OUTBOX_WITHDRAW),
    ("/publish", "publish"): ("/", {"service": "bank", "type": "Wired", "data": "{}"}, Action.PUBLISH),
    ("/partition", "pause"): ("/", {"service": "bank", "topic": "no", "number": 0}, Action.PARTITION_PAUSE),
    ("/partition", "resume"): ("/", {"service": "bank", "topic": "no", "number": 0}, Action.PARTITION_RESUME),
    ("/partition", "release"): ("/", {"service": "bank", "topic": "no", "number": 0}, Action.PARTITION_RELEASE),
    **{
        ("/loss", do): (
            "/", {
                "service": "bank", "topic": "no", "number": 0, "source": "x", "state": "lost", "watermark": 1,
                "needed": 2, "through": 1, "count": 1,
            },
            action,
        )
        for do, action in (("accept", Action.GAP_ACCEPT), ("forget", Action.GAP_FORGET))
    },
    ("/applied", "rewind"): (
        "/", {"service": "bank", "topic": "no", "number": 0, "source": "x", "watermark": 2, "position": 1, "count": 1},
        Action.GAP_REWIND,
    ),
    ("/saga", "retry"): ("/", {"service": "desk", "key": "answer:no"}, Action.SAGA_RETRY),
    ("/saga", "skip"): ("/", {"service": "desk", "key": "answer:no"}, Action.SAGA_SKIP),
    ("/saga", "cancel"): ("/", {"service": "desk", "key": "answer:no"}, Action.SAGA_CANCEL),
    **{
        ("/view", do): ("/", {"service": "bank", "version": 1, "count": 1, "seen": ""}, action)
        for do, action in (
            ("rebuild", Action.VIEW_REBUILD), ("pause", Action.VIEW_PAUSE), ("resume", Action.VIEW_RESUME),
            ("swap", Action.VIEW_SWAP), ("accept-missing", Action.VIEW_ACCEPT_MISSING),
            ("rollback", Action.VIEW_ROLLBACK), ("drop", Action.VIEW_DROP),
        )
    },
}  # fmt: skip


@pytest.fixture
def fresh(world: object, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of the test's own, with two letters of one cause: bob's and eve's."""
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))


async def rows(of: object = bank) -> list[Decision]:
    async with opened_decisions(of) as books:  # type: ignore[arg-type]
        return [each async for each in decisions(books)]


async def states() -> dict[str, int]:
    async with opened(bank) as access:
        return {state.value: count for state, count in (await access.books.letter_totals()).items() if count}


async def the_letter(browser: Browser, number: int = 0) -> str:
    async with opened(bank) as access:
        found = [each.id async for each in access.books.letters_by_time([DeadLetterState.DEAD])]
    return found[number]


def test_every_address_that_takes_a_form_is_in_the_list() -> None:
    assert {path for path, _ in FORMS} == {path for path, _, _, takes in ADDRESSES if takes is not None}


@pytest.mark.usefixtures("world")
async def test_each_role_may_send_the_forms_of_its_actions_and_no_others(browse: Open) -> None:
    for role in Role:
        browser = browse(lambda _, role=role: Actor("ann@desk", [role]))
        shown = await browser.page("/partition?service=bank&topic=wires&number=0")
        token = forms.issue(browser.cookies[forms.COOKIE], time.time())
        del shown
        for (path, do), (_, fields, action) in FORMS.items():
            values = {name: str(value) for name, value in fields.items()}
            # Without a reason: whoever may do it hears that one is missing, and nothing is done.
            answer = await browser.post(path, data={"form": token, "do": do, "reason": "", **values})
            expected = 409 if role.covers(action.needs) else 403
            assert answer.status_code == expected, f"{role} {path} {do}: {answer.text}"
            if expected == 409:
                assert "needs a reason" in answer.text, f"{role} {path} {do}"


@pytest.mark.usefixtures("world")
async def test_nobody_is_shown_a_form_that_they_may_not_send(browse: Open) -> None:
    async with opened(bank) as access:
        dead = [each.id async for each in access.books.letters_by_time([DeadLetterState.DEAD])]
    pages = (f"/letter?service=bank&id={dead[0]}", "/partition?service=bank&topic=wires&number=0")
    shown = {Role.READER: 0, Role.OPERATOR: 5, Role.ADMIN: 6}
    for role, expected in shown.items():
        browser = browse(lambda _, role=role: Actor("ann@desk", [role]))
        assert sum([(await browser.page(page)).count('method="post"') for page in pages]) == expected, role


@pytest.mark.usefixtures("world")
async def test_forms_from_elsewhere_are_refused_and_do_nothing(browse: Open) -> None:
    browser, before = browse(), await states()
    letter = await the_letter(browser)
    shown = await browser.page(f"/letter?service=bank&id={letter}")
    fields = {"service": "bank", "id": letter, "do": "discard", "reason": "no"}

    other = await browser.post(
        "/letter", data={"form": forms.issue(browser.cookies[forms.COOKIE], time.time()), **fields},
        headers={"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"},
    )  # fmt: skip
    assert other.status_code == 403

    stranger = browse()
    without_cookie = await stranger.submit(shown, "/letter", **fields)
    assert without_cookie.status_code == 409
    assert "not sent by a page of the console in this browser" in without_cookie.text

    old = forms.issue(browser.cookies[forms.COOKIE], time.time() - forms.FORM_S - 1)
    late = await browser.post("/letter", data={"form": old, **fields})
    assert "shown more than 12 hours ago" in late.text
    assert await states() == before

    cookie = (await browse().get("/")).headers["set-cookie"].lower()
    assert "samesite=strict" in cookie
    assert "httponly" in cookie


@pytest.mark.usefixtures("fresh")
async def test_a_form_that_is_sent_twice_decides_once_and_answers_the_same(browse: Open) -> None:
    await wire(("bob", -2, ""), ("eve", -5, ""), letters=2)
    browser = browse()
    letter = await the_letter(browser)
    shown = await browser.page(f"/letter?service=bank&id={letter}")
    first, second = await asyncio.gather(
        *(browser.submit(shown, "/letter", service="bank", id=letter, do="retry", reason="rates") for _ in range(2))
    )
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"]
    back = await browser.page(first.headers["location"])
    assert "released; no worker lives" in back
    [row] = await rows()
    assert (row.actor, row.origin, row.action, row.target, row.reason) == (
        "ann@desk", "console", "dead-letters retry", letter, "rates",
    )  # fmt: skip


@pytest.mark.usefixtures("fresh")
async def test_a_group_is_discarded_once_and_only_when_its_count_is_typed(browse: Open) -> None:
    await wire(("bob", -2, ""), ("eve", -5, ""), letters=2)
    browser = browse()
    failures = await browser.page("/failures")
    group = failures.split("/group?")[1].split('"')[0].replace("&amp;", "&")
    name = group.split("name=")[1]
    shown = await browser.page(f"/group?{group}")

    async def said(path: str, part: str) -> str:
        async def look() -> bool:
            return part in await browser.page(path)

        await asyncio.wait_for(until(look), 20)
        return await browser.page(path)

    fields = {"service": "bank", "name": name, "do": "discard", "reason": "old"}
    wrong = await browser.submit(shown, "/group", **fields, count=3)
    await said(wrong.headers["location"], "2 dead letters now, and 3 were confirmed: nothing is discarded")
    assert await states() == {"dead": 2}

    # Who goes back and corrects the count is not told of the first time.
    right = await browser.submit(shown, "/group", **fields, count=2)
    await said(right.headers["location"], "2 discarded")
    assert await states() == {"discarded": 2}
    assert [(each.action, each.reason) for each in await rows()] == [("dead-letters discard", "old")] * 2

    # Another process of the console, which knows nothing of the first: a letter that has died since is left alone.
    other = browse()
    other.cookies.update(browser.cookies)
    await wire(("kim", -1, ""), ("leo", -1, ""), letters=4)
    repeated = await other.submit(shown, "/group", **fields, count=2)

    async def look() -> bool:
        return "this form was sent before, and did this: 2 discarded" in await other.page(repeated.headers["location"])

    await asyncio.wait_for(until(look), 20)
    assert await states() == {"discarded": 2, "dead": 2}


def only_when_asked_first() -> Callable[[Request], Actor]:
    """An admin, who has lost the role when a form that they sent is asked about again."""

    def authorize(request: Request) -> Actor:
        again = request.method == "POST" and "asked_before" in request.scope
        request.scope["asked_before"] = True
        return Actor("ann@desk", ["reader"] if again else ["admin"])

    return authorize


@pytest.mark.usefixtures("fresh")
async def test_a_group_is_tried_again_with_a_brake_and_drains(browse: Open) -> None:
    await wire(*((f"k{number}", -1, "") for number in range(15)), letters=15)
    browser = browse()
    group = (await browser.page("/failures")).split("/group?")[1].split('"')[0].replace("&amp;", "&")
    name = group.split("name=")[1]
    fields = {"service": "bank", "name": name, "do": "retry", "reason": "repaired"}

    async def ended(answer_path: str, by: Browser = browser) -> str:
        async def look() -> bool:
            return "<dd>running</dd>" not in await by.page(answer_path)

        await asyncio.wait_for(until(look), 30)
        return await by.page(answer_path)

    idle = await browser.submit(await browser.page(f"/group?{group}"), "/group", **fields)
    assert "no worker of bank lives" in await ended(idle.headers["location"])

    async with bank.running() as runtime:
        await runtime.ready()
        failing = await browser.submit(await browser.page(f"/group?{group}"), "/group", **fields)
        assert "Tried no further, since wires/" in await ended(failing.headers["location"])
        repair()
        try:
            demoted = browse(only_when_asked_first())
            shown = await demoted.page(f"/group?{group}")
            stopped = await demoted.submit(shown, "/group", **fields)
            page = html.unescape(await ended(stopped.headers["location"], demoted))
            assert (
                "Tried no further, since ann@desk has reader; 'dead-letters retry' needs operator; 14 were not" in page
            )
            assert await states() == {"dead": 14}
            shown = await browser.page(f"/group?{group}")
            draining = await browser.submit(shown, "/group", **fields)
            page = await ended(draining.headers["location"])
        finally:
            unrepaired()
    assert "14 of 14" in page
    assert await states() == {}


@pytest.mark.usefixtures("fresh")
async def test_a_letter_is_edited_and_what_it_was_is_kept(browse: Open) -> None:
    await wire(("bob", -2, ""), letters=1)
    browser = browse()
    letter = await the_letter(browser)
    fields = {"service": "bank", "id": letter, "do": "edit", "reason": "the partner said 2"}
    shown = await browser.page(f"/letter?service=bank&id={letter}")
    bad = await browser.submit(shown, "/letter", **fields, data='{"account": "bob", "pence": "two"}')
    assert "is left as it is, since no handler could read it" in await browser.page(bad.headers["location"])
    shown = await browser.page(f"/letter?service=bank&id={letter}")
    good = await browser.submit(shown, "/letter", **fields, data='{"account": "bob", "pence": 2}')
    assert "released" in await browser.page(good.headers["location"])
    [row] = await rows()
    assert '"pence\\":-2' in bytes(row.before).decode()

    masked = browse(payloads="masked")
    page = await masked.page(f"/letter?service=bank&id={letter}")
    assert "<textarea" not in page
    refused = await masked.post(
        "/letter", data={"form": forms.issue(masked.cookies[forms.COOKIE], time.time()), **fields, "data": "{}"}
    )
    assert "payloads are not shown whole here" in refused.text
    decided = await masked.page("/decisions")
    assert "&#34;data&#34;: &#34;***&#34;" in decided
    assert "pence" not in decided


@pytest.mark.usefixtures("fresh")
async def test_partitions_sagas_are_steered_and_each_decision_has_its_row(browse: Open) -> None:
    await wire(("ann", 1, ""), letters=0)
    await ask("kim")
    browser = browse(admin)
    for do in ("pause", "resume"):
        shown = await browser.page("/partition?service=bank&topic=wires&number=1")
        answer = await browser.submit(
            shown, "/partition", service="bank", topic="wires", number=1, do=do, reason=f"to {do}"
        )
        page = await browser.page(answer.headers["location"])
        assert f"{do} is done" in page
    for do in ("retry", "skip"):
        shown = await browser.page("/saga?service=desk&key=answer:kim")
        answer = await browser.submit(
            shown, "/saga", service="desk", key="answer:kim", do=do, reason="by hand", result="1"
        )
        page = await browser.page(answer.headers["location"])
        assert "as soon as a worker reads it" in page, page
    assert [each.action for each in await rows()] == ["partitions pause", "partitions resume"]
    assert [each.action for each in await rows(desk)] == ["sagas retry", "sagas skip"]
    listed = await browser.page("/decisions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensue.console.screens.decisions._SHOWN", 2)
        assert "The last 2; there are more than 2" in await browser.page("/decisions")
    for text in ("partitions pause", "to resume", "sagas skip", "by hand"):
        assert text in listed
    lines = (await browser.page("/decisions.jsonl?service=bank")).splitlines()
    assert len(lines) == 2
