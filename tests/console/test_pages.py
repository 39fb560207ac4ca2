"""Each screen as a parser of HTML reads it: what strangers wrote is text in it, and what is down is said."""

from __future__ import annotations

import datetime
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from starlette.exceptions import HTTPException
from tests.console.conftest import HOSTILE, LONG, Open, until
from tests.console.world import Asked, bank

from ensue import Saga, Service
from ensue.conformance.store_suite import letter
from ensue.console.access import Actor
from ensue.console.headers import POLICY
from ensue.console.web import ADDRESSES
from ensue.engine.books import Books
from ensue.message import Checkpoint, Partition

pytestmark = pytest.mark.usefixtures("world")


class Read(HTMLParser):
    """What a browser makes of a page, as far as it matters here."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self.links += [value or "" for name, value in attributes if name == "href" and tag == "a"]

    def handle_endtag(self, tag: str) -> None:
        self.text += " " * (tag in ("td", "th"))  # what stands in two cells is two words

    def handle_data(self, data: str) -> None:
        self.text += data


async def every_page(browse: Open, payloads: str = "full") -> dict[str, str]:
    """All pages that a person can get to by links from the overview, by their addresses."""
    browser, found, left = browse(payloads=payloads), {}, ["/"]
    while left:
        path = left.pop()
        if path in found or path.startswith("/decisions.jsonl"):
            continue
        answer = await browser.get(path)
        assert answer.status_code in (200, 503), f"{path}: {answer.text}"
        assert answer.headers["content-security-policy"] == POLICY
        found[path] = answer.text
        if answer.headers["content-type"].startswith("text/html"):
            left += [each for each in Read(answer.text).links if each.startswith("/")]
    return found


async def test_every_screen_is_linked_and_shows_hostile_text_as_text(browse: Open) -> None:
    pages = await every_page(browse)
    seen = {path.partition("?")[0] for path in pages}
    reached = {path for path, *_ in ADDRESSES if not path.startswith("/services")}
    # What is begun by a form, what a lost gap, a refused event or a view leads to, and what a script reads, no link
    # leads to here.
    assert reached - seen == {"/run", "/view", "/loss", "/refused", "/changes", "/decisions.jsonl"}
    with_it = []
    for path, page in pages.items():
        read = Read(page)
        if "json" in path or ".mmd" in path:
            continue
        assert "img" not in read.tags, path
        assert read.tags.count("script") == 1, path
        assert [each for each in read.attributes if each[1] == "style" or each[1].startswith("on")] == [], path
        assert "style" not in read.tags, path
        assert "\x00" not in page, path
        assert "\u202e" not in read.text, path
        if "<script>alert(1)</script>" in read.text:
            with_it.append(path.partition("?")[0])
    assert {"/letters", "/letter", "/outbox"} <= set(with_it)


async def test_a_text_of_a_megabyte_is_cut_and_says_so(browse: Open) -> None:
    browser = browse()
    listed = Read(await browser.page("/outbox?service=bank"))
    assert "more characters" in listed.text
    for path in ("/", "/failures", "/outbox?service=bank", "/letters?service=bank"):
        assert len(await browser.page(path)) < 200_000 < len(LONG)


async def test_masked_payloads_are_on_no_screen(browse: Open) -> None:
    await browse().page("/letter?service=bank&id=wires/0:1")
    for path, page in (await every_page(browse, "masked")).items():
        assert '"pence": -2' not in page, path
        assert "&#34;pence&#34;: -2" not in page, path
        assert "-2 pence" not in page, "what an error quotes"
        assert "kim does not answer" not in page, path
    by_role = {"reader": "masked", "admin": "full"}
    for role, hidden in (("reader", True), ("operator", True), ("admin", False)):
        seen = browse(lambda _, role=role: Actor("kim", [role]), by_role)
        assert ("&#34;pence&#34;: -2" not in await seen.page("/letter?service=bank&id=wires/0:1")) == hidden, role
    shown = Read(await browse().page(next(path for path in await every_page(browse) if path.startswith("/letter?"))))
    assert '"pence"' in shown.text


async def test_one_service_that_is_down_hides_nothing_of_the_others(browse: Open) -> None:
    browser = browse()
    read = Read(await browser.page("/"))
    assert "absent: service absent has no database" in " ".join(read.text.split())
    assert "6 letters" not in read.text
    assert "no worker lives" in read.text  # the console is up while its services are down
    alone = await browser.get("/services/absent")
    assert alone.status_code == 503
    assert "run the service once" in alone.text
    assert 'data-changes="/changes?service=absent"' in alone.text  # it is shown as soon as it is there


async def test_a_saga_is_a_timeline_with_what_is_open(
    browse: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    naps = Service("naps", publishes=[])

    @naps.saga
    async def nap(saga: Saga, asked: Asked) -> None:
        await saga.sleep(datetime.timedelta(milliseconds=1))
        await saga.sleep(datetime.timedelta(hours=1))

    async with naps.running() as runtime:
        async with naps.step() as step:
            step.start(nap, Asked(who=HOSTILE.replace("\x00", "")), id="one")
        books = runtime.context.books

        async def sleeps() -> bool:
            found = await books.saga("nap:one")
            return found is not None and len(found.journal) == 3

        await until(sleeps)
    page = Read(await browse(services=(naps,)).page("/saga?service=naps&key=nap:one"))
    text = " ".join(page.text.split())
    assert "img" not in page.tags
    assert "Open operations 2 sleepJournal" in text
    journal = text.partition("Journal At")[2].partition("What would be undone")[0]
    moments = [journal.index(each) for each in ("begun", "1 asks for sleep", "1 done: sleep", "2 asks for sleep")]
    assert moments == sorted(moments), journal
    assert " +0." in journal  # how much later it came


async def test_a_partition_has_its_counters_for_everybody(browse: Open) -> None:
    browser = browse(lambda _: Actor("kim@desk", ["reader"]))
    assert "/partition?service=bank" in await browser.page("/services/bank")
    pages = [await browser.page(f"/partition?service=bank&topic=wires&number={number}") for number in (0, 1)]
    found = [
        dict(re.findall(r'<th scope="row">([a-z ]+)</th><td class="number">([0-9]+)</td>', each)) for each in pages
    ]
    assert sum(int(each["applied"]) for each in found) == 1  # ann's
    assert all("gaps seen" in each for each in found)


async def test_ten_thousand_letters_are_shown_within_a_second(
    browse: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    async with bank.running(work=False):
        pass
    store = bank.make_store()
    await store.open()
    try:
        partition = Partition("bank", "wires", 0)
        one = msgspec.structs.replace(
            letter(), partition=partition, error="handler credit: 'x'", error_type="KeyError",
            envelope=b'{"id":"1","type":"wires.WiredToBank.v1","time":"2026-01-01T00:00:00Z"}',
        )  # fmt: skip
        many = [
            msgspec.structs.replace(one, key=f"key-{n}", position=n, offset=n, parked_at=1e9 + n) for n in range(10_000)
        ]
        async with store.transaction() as transaction:
            checkpoint = Checkpoint()
            await Books(store, "bank").add_letters(transaction, checkpoint, many)
            await Books(store, "bank").save_checkpoint(transaction, partition, checkpoint)
    finally:
        await store.close()
    browser = browse()
    [group] = [each for each in Read(await browser.page("/failures")).links if each.startswith("/group")]
    for path in ("/letters?service=bank", "/letters?service=bank&state=dead", "/failures", group):
        took = []
        for _ in range(3):
            began = time.process_time()  # not what others do on this machine meanwhile
            read = Read(await browser.page(path))
            took.append(time.process_time() - began)
        assert "10000" in read.text, path
        assert min(took) < 1.0, f"{path}: {took}"
    following = next(each for each in Read(await browser.page("/letters?service=bank")).links if "after=" in each)
    assert "key-100" in (await browser.page(following))


async def test_nobody_is_let_in_whom_the_host_does_not_know(browse: Open) -> None:
    nobody = browse(lambda _: None)
    for path, *_ in ADDRESSES:
        answer = await nobody.get(path.replace("{service}", "bank"))
        assert answer.status_code == 401, path
        assert "bob" not in answer.text
    assert (await nobody.post("/letter", data={})).status_code == 401
    without_roles = browse(lambda _: Actor("ann", []))
    assert (await without_roles.get("/")).status_code == 403


async def test_an_address_that_leads_nowhere_is_a_page_that_leads_back(browse: Open) -> None:
    answer = await browse().get("/failurs")
    assert answer.status_code == 404
    read = Read(answer.text)
    assert "There is no page" in read.text
    assert any(each.endswith("/") for each in read.links)

    def hidden(_: object) -> Actor:
        raise HTTPException(404, "nothing for you")

    assert "nothing for you" in (await browse(hidden).get("/")).text


async def test_an_error_of_the_consoles_own_says_nothing_of_its_inside(
    browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Actor:
        raise RuntimeError("the password is 1234")

    answer = await browse(broken).get("/")
    assert answer.status_code == 500
    assert "1234" not in answer.text
