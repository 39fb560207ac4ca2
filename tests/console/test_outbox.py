"""The outbox is searched, and in development a test event is published; letters that nothing waits for are deleted."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from tests.console.conftest import HOSTILE, LONG, Browser, Open, wire
from tests.console.test_decisions import rows, states
from tests.console.test_pages import Read
from tests.console.world import Wired, bank

from ensue.console.access import Actor
from ensue.console.alone import ENTER, standalone
from ensue.console.payloads import Payloads
from ensue.console.rendering import link
from ensue.console.standalone import OneTimeLink, proxy_header
from ensue.message import DeadLetterState, HeldPartition
from ensue.operations.opening import opened
from ensue.operations.outbox import outbox

TYPE = "wires.WiredToBank.v1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    monkeypatch.setenv("ENSUE_PARTITIONS", "2")


async def publish(browser: Browser, data: str, shown: str = "") -> str:
    shown = shown or await browser.page(link("/publish", service="bank", type=TYPE))
    answer = await browser.submit(shown, "/publish", do="publish", reason="a try", data=data)
    return await browser.page(answer.headers["location"])


async def positions(browser: Browser, **wanted: object) -> list[int]:
    page = await browser.page(link("/outbox", service="bank", **wanted))
    return [int(each.split("<")[0]) for each in page.split('<th scope="row" class="number">')[1:]]


async def test_records_are_found_by_each_of_their_ids_and_by_whether_they_are_sent(browse: Open) -> None:
    await wire(("bob", -2, ""), ("eve", -5, ""), letters=2)
    async with bank.running(work=False), bank.step() as step:
        flow = step.correlation_id
        step.publish(Wired(account="ann", pence=1))
        step.publish(Wired(account="bob", pence=1))
    browser = browse()
    assert await positions(browser) == [1, 2, 3, 4]
    assert await positions(browser, sent="yes") == [1, 2]
    assert await positions(browser, sent="no") == [3, 4]
    assert await positions(browser, key="bob") == [1, 4]
    assert await positions(browser, key="bob", sent="no") == [4]
    assert await positions(browser, type=TYPE, after=2) == [3, 4]
    assert await positions(browser, type="none") == []
    assert await positions(browser, correlation=flow) == [3, 4]
    page = Read(await browser.page(link("/outbox", service="bank", correlation=flow))).text
    assert f'"correlationid": "{flow}"' in page
    message = page.split('"id": "')[1].split('"')[0]
    assert await positions(browser, id=message) == [3]
    assert (await browser.get(link("/outbox", service="bank", sent="perhaps"))).status_code == 404


async def test_an_event_that_the_broker_refuses_is_withdrawn_from_its_page(browse: Open) -> None:
    await wire(letters=0)
    async with bank.running(work=False), bank.step() as step:
        step.publish(Wired(account="ann", pence=1))
    browser = browse()
    assert ">refused<" not in await browser.page("/outbox?service=bank")
    async with opened(bank) as access:
        record = (await outbox(access, 0, 1)).records[0]
        message, reason = record.headers["id"], f"too large {HOSTILE}"
        held = HeldPartition("wires", record.partition, record.position, TYPE, message, reason, refused=True)
        await access.books.tell_held([held])
    path = link("/refused", service="bank", id=message)
    assert path.replace("&", "&amp;") in await browser.page("/outbox?service=bank")
    shown = await browser.page(path)
    assert "too large" in shown
    assert "<script>alert" not in shown
    reader = browse(lambda _: Actor("eve@desk", ["operator"]))
    assert 'method="post"' not in await reader.page(path)
    answer = await browser.submit(shown, "/refused", do="withdraw", reason="nobody reads it")
    assert "is withdrawn: what waits behind it in" in await browser.page(answer.headers["location"])
    assert ">withdrawn<" in await browser.page("/outbox?service=bank")
    assert "is withdrawn already" in await browser.page(path)
    [row] = await rows()
    assert (row.actor, row.action, row.target, row.reason) == (
        "ann@desk", "outbox withdraw", message, "nobody reads it",
    )  # fmt: skip


async def test_a_test_event_is_published_once_with_its_row(browse: Open) -> None:
    await wire(letters=0)
    browser = browse()
    assert link("/publish", service="bank") in await browser.page("/outbox?service=bank")
    shown = await browser.page(link("/publish", service="bank", type=TYPE))
    assert "&#34;account&#34;: null" in shown
    assert "is no JSON" in await publish(browser, "{")
    assert "has no field cents" in await publish(browser, '{"account": "ann", "pence": 1, "cents": 2}')
    assert await positions(browser) == []
    said = await publish(browser, '{"account": "ann", "pence": 1}', shown)
    assert "position 1 of wires/" in said
    assert "it is sent when a worker runs" in said
    other = browse()  # another process of the console, to which the same form comes
    other.cookies.update(browser.cookies)
    assert "this form was sent before, and did this: published" in await publish(
        other, '{"account": "ann", "pence": 1}', shown
    )
    assert await positions(browser) == [1]
    [row] = await rows()
    assert (row.actor, row.origin, row.action, row.reason) == ("ann@desk", "console", "publish", "a try")


async def test_what_is_published_by_hand_may_hold_anything(browse: Open) -> None:
    await wire(letters=0)
    browser = browse()
    for data in ({"account": "ann", "pence": 1, "note": HOSTILE}, {"account": "ann", "pence": 1, "note": LONG}):
        assert "position" in await publish(browser, json.dumps(data))
    page = await browser.page("/outbox?service=bank")
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert len(page) < 200_000


async def test_nobody_publishes_where_the_application_has_not_said_so(browse: Open) -> None:
    await wire(letters=0)
    silent = browse(options={})
    assert "/publish" not in await silent.page("/outbox?service=bank")
    form = {"service": "bank", "type": TYPE, "data": "{}", "do": "publish", "reason": "a try"}
    assert "for development" in await silent.page("/publish?service=bank", 403)
    assert (await silent.post("/publish", data=form)).status_code == 403
    operator = browse(lambda _: Actor("ann@desk", ["operator"]))
    assert "/publish" not in await operator.page("/outbox?service=bank")
    assert 'method="post"' not in await operator.page("/publish?service=bank")


async def test_alone_it_publishes_for_the_user_of_this_machine_and_not_behind_a_proxy() -> None:
    await wire(letters=0)
    way_in = OneTimeLink(lambda: "secret", "ann", ["admin"])
    proxied = proxy_header("proxy-header=X-User", ["127.0.0.1/32"], ["admin"])
    for way, path, headers, status in (
        (way_in, f"{ENTER}?token=secret", {}, 200), (proxied, "/", {"X-User": "ann"}, 403),
    ):  # fmt: skip
        console = standalone([bank], way, Payloads.FULL, {})
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(console), base_url="http://127.0.0.1", headers=headers
        ) as browser:
            await browser.get(path)
            assert (await browser.get("/publish?service=bank")).status_code == status


async def test_letters_that_nothing_waits_for_are_deleted_when_their_count_is_typed(browse: Open) -> None:
    await wire(("bob", -2, ""), ("eve", -5, ""), letters=2)
    browser = browse()
    async with opened(bank) as access:
        dead = [each.id async for each in access.books.letters_by_time([DeadLetterState.DEAD])]
    for each in dead:
        shown = await browser.page(link("/letter", service="bank", id=each))
        await browser.submit(shown, "/letter", do="discard", reason="old")
    assert await states() == {"discarded": 2}
    assert "Delete for good" not in await browser.page("/letters?service=bank")
    path = "/letters?service=bank&state=discarded"
    wrong = await browser.submit(await browser.page(path), "/letters", do="purge", reason="old", days=0, count=1)
    assert "2 discarded and refused letters now, and 1 was typed" in await browser.page(wrong.headers["location"])
    assert await states() == {"discarded": 2}
    right = await browser.submit(await browser.page(path), "/letters", do="purge", reason="old", days=0, count=2)
    assert "2 of 2 discarded and refused letters deleted" in await browser.page(right.headers["location"])
    assert await states() == {}
    assert [each.action for each in await rows()][-1] == "dead-letters purge"
