"""The log is read by partition: a page at a time, as much of it as one may see, and what is no message as such."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.console.conftest import HOSTILE, Browser, Open, until
from tests.console.test_pages import Read
from tests.console.world import Wired, bank

from ensue.adapters import make_broker
from ensue.console.rendering import link
from ensue.message import OutboxRecord
from ensue.operations.log import log_page
from ensue.operations.opening import opened

PLACE = {"service": "bank", "topic": "wires", "number": 0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    monkeypatch.setenv("ENSUE_PARTITIONS", "1")


async def sent(*wires: tuple[str, int, str]) -> None:
    """They are in the log."""
    async with bank.running() as runtime:
        async with bank.step() as step:
            for account, pence, note in wires:
                step.publish(Wired(account=account, pence=pence, note=note))

        async def there() -> bool:
            return (await runtime.context.broker.bounds("wires", 0)).last >= len(wires)

        await until(there)


async def put_garbage() -> None:
    broker = make_broker(bank.settings().broker)
    await broker.open()
    try:
        await broker.append("wires", 0, "stranger", [OutboxRecord("wires", 0, HOSTILE, b"no envelope", b"\xffsecret")])
        await broker.ensure_topic("another", 1)
        await broker.append("another", 0, "stranger", [OutboxRecord("another", 0, "k", b"no envelope", b"x")])
    finally:
        await broker.close()


def forget_log(home: Path) -> None:
    found = list(home.glob("broker*"))
    assert found
    for each in found:
        each.unlink()


async def offsets(browser: Browser, path: str) -> list[int]:
    page = await browser.page(path)
    return [int(each.split("<")[0]) for each in page.split('<th scope="row" class="number">')[1:]]


async def test_a_partition_is_read_a_page_at_a_time_and_garbage_is_shown_as_such(
    browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.console.screens.log._SHOWN", 2)
    await sent(("ann", 1, ""), ("bob", 2, ""), ("eve", 3, ""))
    await put_garbage()
    browser = browse()
    listed = Read(await browser.page("/log?service=bank"))
    assert link("/log", **PLACE) in listed.links
    assert not [each for each in listed.links if "another" in each], "a topic of others"
    path, found = link("/log", **PLACE), list[int]()
    while path:
        assert len(found) < 10
        found += await offsets(browser, path)
        page = await browser.page(path)
        path = page.split('id="next" href="')[1].split('"')[0].replace("&amp;", "&") if 'id="next"' in page else ""
    assert found == [1, 2, 3, 4]
    assert await offsets(browser, link("/log", **PLACE, offset=3)) == [3, 4]
    assert await offsets(browser, link("/log", **PLACE, offset=99)) == []
    last = await browser.page(link("/log", **PLACE, offset=4))
    shown = Read(last)
    assert "no message" in shown.text
    assert "xffsecret" in shown.text
    assert "img" not in shown.tags
    assert "It holds offsets 1 to 4" in shown.text
    first = Read(await browser.page(link("/log", **PLACE)))
    assert '"pence": 1' in first.text
    [flow] = {each for each in first.links if each.startswith("/flow?")}
    assert "What followed from what" in await browser.page(flow)
    for wrong in ({**PLACE, "number": 1}, {**PLACE, "topic": "another"}):
        answer = await browser.get(link("/log", **wrong))
        assert answer.status_code == 404
        assert "is no partition that bank reads or publishes to" in answer.text


async def test_what_one_may_not_see_of_payloads_is_not_in_the_log_either(browse: Open) -> None:
    await sent(("ann", 4711, ""))
    await put_garbage()
    for mode, seen in (("none", False), ("masked", False), ("full", True)):
        page = Read(await browse(payloads=mode).page(link("/log", **PLACE))).text
        assert ("4711" in page, "secret" in page) == (seen, seen), mode
        assert "no message" in page


async def test_a_page_has_no_more_bytes_than_it_may_and_one_record_at_least() -> None:
    await sent(*((f"k{number}", 1, "n" * 1000) for number in range(12)))
    async with opened(bank, broker=True) as access:
        page = await log_page(access, "wires", 0, 0, 50, 3500)
        assert [each.offset for each in page.records] == [1, 2, 3]
        assert page.next == 4
        one = await log_page(access, "wires", 0, page.next, 50, 10)
        assert ([each.offset for each in one.records], one.next) == ([4], 5)
        rest = await log_page(access, "wires", 0, one.next, 50, 1 << 20)
        assert ([each.offset for each in rest.records], rest.next) == ([*range(5, 13)], 0)


async def test_without_a_log_the_page_says_so(browse: Open, tmp_path: Path) -> None:
    async with bank.running(work=False):
        pass
    forget_log(tmp_path)
    assert "there is no broker at" in (await browse().get("/log?service=bank")).text
