"""Losses are accepted with their count typed; versions of views are built, paused, asked and removed; by forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.console.conftest import Browser, Open, wire
from tests.console.world import bank, new_totals, totals

from ensue.app import Service
from ensue.console.rendering import link
from ensue.engine.books import Books
from ensue.message import Checkpoint, Gap, GapState, Partition
from ensue.operations.decisions import decisions, opened_decisions
from ensue.operations.opening import opened

LOST = Gap("till/a", 4, 9, 1000.0, GapState.LOST, 7)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    monkeypatch.setenv("ENSUE_PARTITIONS", "2")
    monkeypatch.setenv("ENSUE_LEASE_TTL_S", "0.6")


async def actions(of: Service) -> list[tuple[str, str]]:
    async with opened_decisions(of) as books:
        return [(each.action, each.reason) async for each in decisions(books)]


async def test_a_loss_is_accepted_only_with_the_count_of_what_is_lost(browse: Open) -> None:
    where = Partition("bank", "wires", 0)
    await wire(letters=0)
    store = bank.make_store()
    await store.open()
    try:
        async with store.transaction() as transaction:
            checkpoint = Checkpoint(offset=9, watermarks={"till/a": 4}, gaps={"till/a": LOST})
            await Books(store, "bank").save_checkpoint(transaction, where, checkpoint)
    finally:
        await store.close()
    browser = browse()
    assert "messages of till/a are lost" in await browser.page("/")
    assert "/loss?service=bank" in await browser.page("/losses")
    path = link("/loss", service="bank", topic="wires", number=0, source="till/a")
    fields = {
        "service": "bank", "topic": "wires", "number": 0, "source": "till/a", "through": 7, "do": "accept",
        "reason": "they are in the paper",
    }  # fmt: skip
    wrong = await browser.submit(await browser.page(path), "/loss", **fields, count=2)
    assert "3 messages of till/a are lost now, and 2 was typed" in await browser.page(wrong.headers["location"])
    assert await actions(bank) == []
    right = await browser.submit(await browser.page(path), "/loss", **fields, count=3)
    assert "goes on behind position 7 of till/a" in await browser.page(right.headers["location"])
    assert await actions(bank) == [("gaps accept", "they are in the paper")]
    async with opened(bank) as access:
        assert (await access.books.checkpoint(where)).watermarks == {"till/a": 7}


async def test_a_view_is_built_asked_and_rolled_back(browse: Open) -> None:
    await wire(("ann", 1, ""), letters=0)
    browser = browse(services=(bank, new_totals))

    async def decide(do: str, **fields: object) -> str:
        return await _decided(browser, new_totals.name, do, **fields)

    async with totals.running():
        assert "version 1 is asked; version 2 is BUILDING" in (await decide("rebuild")).replace("building", "BUILDING")
        assert "version 2 is paused" in await decide("pause")
        assert "possible when it is building" in await decide("pause")  # refused, and says why
        assert "version 2 is building" in await decide("resume")
        async with new_totals.running():
            while "is asked; version 1 was asked before" not in await decide("swap"):
                pass  # refused while it is not ready
        assert "version 1 is asked" in await decide("rollback")
    assert "version 1 is asked" in await decide("drop", version=2)
    done = [action for action, _ in await actions(new_totals)]
    assert done == ["views rebuild", "views pause", "views resume", "views swap", "views rollback", "views drop"]
    assert "totals" in await browser.page("/views")


async def _decided(browser: Browser, service: str, do: str, **fields: object) -> str:
    shown = await browser.page(link("/view", service=service))
    answer = await browser.submit(shown, "/view", service=service, do=do, reason=f"to {do}", **fields)
    return await browser.page(answer.headers["location"])
