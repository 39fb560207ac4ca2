"""What somebody decides on a page is done only as far as it still stands as they saw it; and what does not answer."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.console.conftest import Browser, Open, ask, until, wire
from tests.console.world import absent, bank, desk, new_totals, totals

import ensue.console.screens.live as live
from ensue.app import Service
from ensue.console import Payloads
from ensue.console.alone import standalone
from ensue.console.rendering import link
from ensue.console.standalone import OneTimeLink
from ensue.deciding import Deciding, Face
from ensue.engine.books import Books
from ensue.errors import StoreUnavailable
from ensue.message import DeadLetterState, Gap, GapState, Partition
from ensue.operations import letter_decisions, sagas
from ensue.operations.decisions import decisions, opened_decisions
from ensue.operations.gaps import GapAt
from ensue.operations.opening import opened
from ensue.saga.instance import Status

WHERE = Partition("bank", "wires", 0)
SHOWN = Gap("till/a", 4, 9, 1000.0, GapState.LOST, 7)
BY = Deciding(actor="kim", origin=Face.CLI, reason="first")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    monkeypatch.setenv("ENSUE_PARTITIONS", "1")
    monkeypatch.setenv("ENSUE_LEASE_TTL_S", "0.6")


async def actions(of: Service) -> list[str]:
    async with opened_decisions(of) as books:
        return [each.action async for each in decisions(books)]


async def save(of: Service, gap: Gap) -> None:
    store = of.make_store()
    await store.open()
    try:
        books, where = Books(store, of.name), Partition(of.name, "wires", 0)
        checkpoint = await books.checkpoint(where)
        checkpoint.watermarks, checkpoint.gaps = {gap.source: gap.watermark}, {gap.source: gap}
        async with store.transaction() as transaction:
            await books.save_checkpoint(transaction, where, checkpoint)
    finally:
        await store.close()


async def dead() -> list[str]:
    async with opened(bank) as access:
        return [each.id async for each in access.books.letters_by_time([DeadLetterState.DEAD])]


async def told(browser: Browser, answer: httpx.Response) -> str:
    """What has come of a form, at its end."""
    path = answer.headers["location"]

    async def over() -> bool:
        return "<dd>running</dd>" not in await browser.page(path)

    await until(over)
    return await browser.page(path)


async def test_what_is_lost_since_it_was_looked_at_is_not_accepted_with_the_rest(
    browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wire(letters=0)
    browser = browse()
    path = link("/loss", service="bank", topic="wires", number=0, source="till/a")
    await save(bank, SHOWN)
    shown = await browser.page(path)
    more = Gap("till/a", 4, 9, 1000.0, GapState.LOST, 9)
    await save(bank, more)

    async def as_it_was(_: object) -> list[GapAt]:
        return [GapAt("wires", 0, SHOWN)]

    monkeypatch.setattr("ensue.operations.gaps.gaps", as_it_was)  # it becomes more right after the look
    answer = await browser.submit(shown, "/loss", do="accept", count=3, reason="they are in the paper")
    assert "positions 5 to 9 are lost now, and 5 to 7 were when it was decided" in await told(browser, answer)
    assert await actions(bank) == []
    async with opened(bank) as access:
        assert (await access.books.checkpoint(WHERE)).gaps == {"till/a": more}


async def test_what_a_view_goes_on_without_is_not_accepted_where_it_would_not_be_kept(browse: Open) -> None:
    await wire(letters=0)
    async with totals.running(work=False):
        pass
    await save(totals, SHOWN)
    browser = browse(services=(bank, totals))
    shown = await browser.page(link("/loss", service=totals.name, topic="wires", number=0, source="till/a"))
    assert "ensue views accept-missing" in shown
    assert 'value="accept"' not in shown
    other = await browser.page("/partition?service=bank&topic=wires&number=0")
    fields = {"service": totals.name, "topic": "wires", "number": 0, "source": "till/a", "through": 7, "count": 3}
    fields |= {"state": "lost", "watermark": SHOWN.watermark, "needed": SHOWN.needed}
    answer = await browser.submit(other, "/loss", do="accept", reason="gone", **fields)
    assert "of which it is kept what it goes on without" in await told(browser, answer)
    async with opened(totals) as access:
        assert (await access.books.checkpoint(Partition(totals.name, "wires", 0))).gaps == {"till/a": SHOWN}


async def test_other_letters_of_the_same_count_are_not_discarded_unseen(browse: Open) -> None:
    await wire(("bob", -2, ""), ("eve", -5, ""), letters=2)
    browser = browse()
    group = (await browser.page("/failures")).split("/group?")[1].split('"')[0].replace("&amp;", "&")
    shown = await browser.page(f"/group?{group}")
    async with opened(bank) as access:
        for each in await dead():
            await letter_decisions.discard(access, each, BY)
    await wire(("kim", -1, ""), ("leo", -1, ""), letters=4)
    others = await dead()
    answer = await browser.submit(shown, "/group", do="discard", count=2, reason="old")
    assert "has 2 dead letters, but others than when it was looked at" in await told(browser, answer)
    assert await dead() == others
    answer = await browser.submit(await browser.page(f"/group?{group}"), "/group", do="discard", count=2, reason="old")
    assert "2 discarded" in await told(browser, answer)


async def test_what_somebody_has_written_into_a_letter_is_not_written_over_unseen(browse: Open) -> None:
    await wire(("bob", -2, "from the bank"), letters=1)
    [letter] = await dead()
    ann, kim = browse(), browse()
    path = link("/letter", service="bank", id=letter)
    of_ann, of_kim = await ann.page(path), await kim.page(path)
    first = '{"account": "bob", "pence": -3, "note": "by ann"}'
    assert "released" in await told(ann, await ann.submit(of_ann, "/letter", do="edit", data=first, reason="a slip"))
    async with bank.running():

        async def failed_again() -> bool:
            return await dead() == [letter]

        await until(failed_again)
    second = '{"account": "bob", "pence": 2, "note": "by kim"}'
    answer = await kim.submit(of_kim, "/letter", do="edit", data=second, reason="a slip")
    assert "somebody has edited it since it was looked at" in await told(kim, answer)
    assert "by ann" in await kim.page(path)
    answer = await kim.submit(await kim.page(path), "/letter", do="edit", data=second, reason="a slip")
    assert "released" in await told(kim, answer)


async def test_a_saga_that_has_gone_on_is_not_skipped_where_nobody_looked(browse: Open) -> None:
    await ask("kim")
    browser = browse()
    path = link("/saga", service="desk", key="answer:kim")
    shown = await browser.page(path)
    async with opened(desk) as access:
        seen = (await sagas.instance(access, "answer:kim")).revision
        await sagas.order(access, ["answer:kim"], "retry", BY)
        async with desk.running():

            async def parked_again() -> bool:
                found = await sagas.instance(access, "answer:kim")
                return found.revision != seen and found.status is Status.PARKED and len(found.decisions) == 1

            await until(parked_again)
    answer = await browser.submit(shown, "/saga", do="skip", result="1", reason="by hand")
    assert "is not as it was when it was looked at" in await told(browser, answer)
    assert await actions(desk) == ["sagas retry"]
    answer = await browser.submit(await browser.page(path), "/saga", do="skip", result="1", reason="by hand")
    assert "is skipped as soon as a worker reads it" in await told(browser, answer)


async def test_two_who_roll_a_view_back_at_once_do_not_go_there_and_back(browse: Open) -> None:
    await wire(("ann", 1, ""), letters=0)
    ann, kim = (browse(services=(bank, new_totals)) for _ in range(2))
    path = link("/view", service=new_totals.name)

    async def decide(browser: Browser, shown: str, do: str) -> str:
        return await told(browser, await browser.submit(shown, "/view", service=new_totals.name, do=do, reason=do))

    async with totals.running():
        await decide(ann, await ann.page(path), "rebuild")
        async with new_totals.running():
            while "is asked; version 1 was asked before" not in await decide(ann, await ann.page(path), "swap"):
                pass  # refused while it is not ready
            of_ann, of_kim = await ann.page(path), await kim.page(path)
            assert "version 1 is asked" in await decide(ann, of_ann, "rollback")
            assert "version 1 is not the one to go back to, 2 is" in await decide(kim, of_kim, "rollback")
    assert await actions(new_totals) == ["views rebuild", "views swap", "views rollback"]


async def test_no_password_is_in_what_has_come_of_a_form(browse: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    await wire(("bob", -2, ""), letters=1)
    [letter] = await dead()
    browser = browse()

    async def lose(*_: object) -> None:
        raise StoreUnavailable("postgresql://ann:hidden@db/bank went down")

    monkeypatch.setattr(letter_decisions, "discard", lose)
    shown = await browser.page(link("/letter", service="bank", id=letter))
    page = await told(browser, await browser.submit(shown, "/letter", do="discard", reason="old"))
    assert "postgresql://***@db/bank went down" in page
    assert "hidden@" not in page


class Hanging:
    """A database that takes connections and answers nothing."""

    async def exists(self) -> bool:
        await asyncio.Event().wait()
        return True

    async def close(self) -> None: ...


async def test_a_database_that_answers_nothing_hides_no_decision_and_no_view_of_the_others(
    browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wire(("bob", -2, ""), letters=1)
    [letter] = await dead()
    async with opened(bank) as access:
        await letter_decisions.discard(access, letter, BY)
    monkeypatch.setattr("ensue.console.services.ANSWER_S", 0.3)
    monkeypatch.setattr(absent, "make_store", Hanging)
    monkeypatch.setattr(totals, "make_base", Hanging)
    browser = browse(services=(bank, absent, totals, new_totals))
    for path, said in (("/decisions", "dead-letters discard"), ("/views", "has no database")):
        page = await asyncio.wait_for(browser.page(path), 10)
        assert said in page, path
        assert "no answer within 0.3 s" in page, path


async def test_a_page_that_a_database_keeps_waiting_says_so(browse: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    await wire(letters=0)

    async def hang(*_: object) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("ensue.operations.letters.letter_count", hang)
    answer = await asyncio.wait_for(browse(answer_s=0.3).get("/letters?service=bank"), 10)
    assert answer.status_code == 504
    assert "No answer within 0.3 s" in answer.text

    monkeypatch.setattr(live, "LOOK_S", 0.1)
    watched = live._Watched("bank", lambda: opened(bank), hang)
    async with watched:
        assert await asyncio.wait_for(watched.look(), 10) == "bank: no answer"


async def test_a_form_whose_database_hangs_goes_on_where_it_can_be_watched(
    browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wire(("bob", -2, ""), letters=1)
    [letter] = await dead()
    discard, again = letter_decisions.discard, asyncio.Event()

    async def hang(*arguments: Any) -> Any:
        await again.wait()
        return await discard(*arguments)

    monkeypatch.setattr(letter_decisions, "discard", hang)
    browser = browse(answer_s=0.5)
    shown = await browser.page(f"/letter?service=bank&id={letter}")
    fields = {"service": "bank", "id": letter, "do": "discard", "reason": "old"}
    answer = await asyncio.wait_for(browser.submit(shown, "/letter", **fields), 10)
    assert answer.headers["location"].startswith("/run?id=")
    assert "<dd>running</dd>" in await browser.page(answer.headers["location"])
    again.set()
    assert "discarded" in await told(browser, answer)
    assert await actions(bank) == ["dead-letters discard"]


async def test_a_page_has_no_more_bytes_of_data_than_it_can_bear(browse: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    await wire(*((f"k{number}", 1, "x" * 1000) for number in range(10)), letters=0)
    monkeypatch.setattr("ensue.console.screens.outbox._BYTES_MAX", 3000)
    browser, path, found = browse(), "/outbox?service=bank", list[str]()
    while path:
        page = await browser.page(path)
        keys = re.findall(r"<td>(k[0-9])</td>", page)
        assert 1 <= len(keys) <= 4
        found += keys
        following = re.search(r'id="next" href="([^"]*)"', page)
        path = "" if following is None else following[1].replace("&amp;", "&")
    assert found == [f"k{number}" for number in range(10)]


async def test_a_program_that_looks_at_the_link_first_does_not_use_it_up(browse: Open) -> None:
    way = OneTimeLink(iter(["token", "session"]).__next__, "ann")
    transport = httpx.ASGITransport(standalone([bank], way, Payloads.FULL, {}), client=("127.0.0.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8040") as browser:
        looked = await browser.head("/enter?token=token")
        assert "set-cookie" not in looked.headers
        entered = await browser.get("/enter?token=token")
        assert (entered.status_code, entered.cookies["ensue-session-8040"]) == (303, "session")
        assert (await browser.head("/letter?service=bank&id=no")).status_code != 409
