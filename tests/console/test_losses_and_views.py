"""Losses are accepted with their count typed; versions of views are built, paused, asked and removed; by forms."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import pytest
from tests.console.conftest import HOSTILE, Browser, Open, until, wire
from tests.console.test_pages import Read
from tests.console.world import Wired, bank, new_totals, totals

from ensue.app import Service
from ensue.console.rendering import link
from ensue.deciding import Deciding, Face
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import Checkpoint, Gap, GapState, Partition
from ensue.operations.decisions import decisions, opened_decisions
from ensue.operations.epoch import begin_epoch, compared
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


async def store(of: Service, where: Partition, checkpoint: Checkpoint) -> None:
    """Put this in the place of what a service has read of a partition."""
    async with opened(of) as access:
        known = await access.books.checkpoint(where)
        async with access.store.transaction() as transaction:
            changed = msgspec.structs.replace(checkpoint, revision=known.revision)
            await access.books.save_checkpoint(transaction, where, changed)


async def holed(of: Service, gap: Gap) -> Partition:
    where = Partition(of.name, "wires", 0)
    watermarks = {gap.source: gap.watermark}
    await store(of, where, Checkpoint(offset=9, watermarks=watermarks, gaps={gap.source: gap}))
    return where


async def handle(*wires: tuple[str, int, str], applied: int) -> None:
    """Publish in the bank and run it until it has handled so many of all that it has."""
    async with bank.running() as runtime:
        async with bank.step() as step:
            for account, pence, note in wires:
                step.publish(Wired(account=account, pence=pence, note=note))
        books = runtime.context.books

        async def done() -> bool:
            return sum(each.counters.applied for each in (await books.checkpoints()).values()) == applied

        await until(done)


async def closed(of: Service, where: Partition) -> Checkpoint:
    async with opened(of) as access:
        return await access.books.checkpoint(where)


async def test_a_loss_is_accepted_only_with_the_count_of_what_is_lost(browse: Open) -> None:
    await wire(letters=0)
    where = await holed(bank, LOST)
    browser = browse()
    assert "messages of till/a are lost" in await browser.page("/")
    assert "/loss?service=bank" in await browser.page("/losses")
    path = link("/loss", service="bank", topic="wires", number=0, source="till/a")
    fields = {"do": "accept", "reason": "they are in the paper"}
    shown = await browser.page(path)
    wrong = await browser.submit(shown, "/loss", **fields, count=2)
    assert "3 messages of till/a are lost now, and 2 was typed" in await browser.page(wrong.headers["location"])
    assert await actions(bank) == []
    # Others are lost by now, as many: nobody has agreed to go on without these.
    await holed(bank, msgspec.structs.replace(LOST, watermark=5, lost_through=8))
    unseen = await browser.submit(shown, "/loss", **fields, count=3)
    assert "nothing was decided; look at the gap again" in await browser.page(unseen.headers["location"])
    await holed(bank, LOST)
    shown = await browser.page(path)
    await holed(bank, msgspec.structs.replace(LOST, needed=10))  # its source has sent one more, which is held back
    right = await browser.submit(shown, "/loss", **fields, count=3)
    assert "goes on behind position 7 of till/a" in await browser.page(right.headers["location"])
    assert await actions(bank) == [("gaps accept", "they are in the paper")]
    assert (await closed(bank, where)).watermarks == {"till/a": 7}


async def test_a_gap_of_a_source_that_somebody_invented_is_forgotten(browse: Open) -> None:
    await wire(letters=0)
    hostile = f"{HOSTILE.replace(chr(0), '')}/a"
    where = await holed(bank, Gap(hostile, 0, 5, 1000.0))
    browser = browse()
    path = link("/loss", service="bank", topic="wires", number=0, source=hostile)
    shown = await browser.page(path)
    assert "<script>alert" not in shown
    assert "Go on without them" not in shown  # it is asked for still
    answer = await browser.submit(shown, "/loss", do="forget", reason="invented", count=5)
    assert "is asked no more" in await browser.page(answer.headers["location"])
    assert (await closed(bank, where)).gaps == {}
    assert await actions(bank) == [("gaps forget", "invented")]


async def test_a_source_is_taken_back_to_where_the_log_says_it_was(browse: Open) -> None:
    await handle(("ann", 1, ""), ("ann", 2, ""), applied=2)
    async with opened(bank) as access:
        [(where, found)] = [each for each in (await access.books.checkpoints()).items() if each[1].watermarks]
        [(source, watermark)] = found.watermarks.items()
    browser = browse()
    path = link("/applied", service="bank", topic="wires", number=where.number, source=source)
    assert path.replace("&", "&amp;") in await browser.page("/services/bank")
    shown = await browser.page(path)
    assert f"Positions that are taken back, {watermark - 1} by the log" in shown
    fields = {"do": "rewind", "reason": "somebody else wrote it", "position": 1}
    wrong = await browser.submit(shown, "/applied", **fields, count=watermark)
    assert "nothing was taken back" in await browser.page(wrong.headers["location"])
    # It was applied further since the page was shown.
    await store(bank, where, msgspec.structs.replace(found, watermarks={source: watermark + 1}))
    unseen = await browser.submit(shown, "/applied", **fields, count=watermark - 1)
    assert "when somebody looked: nothing is taken back" in await browser.page(unseen.headers["location"])
    assert await actions(bank) == []
    await store(bank, where, found)
    right = await browser.submit(await browser.page(path), "/applied", **fields, count=watermark - 1)
    assert f"goes on behind position 1 of {source}" in await browser.page(right.headers["location"])
    assert (await closed(bank, where)).watermarks == {source: 1}
    assert await actions(bank) == [("gaps rewind", "somebody else wrote it")]


async def test_a_source_is_taken_back_by_a_typed_position_where_the_log_does_not_answer(
    browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle(("ann", 1, ""), applied=1)
    async with opened(bank) as access:
        [(where, found)] = [each for each in (await access.books.checkpoints()).items() if each[1].watermarks]
        [(source, _)] = found.watermarks.items()

    async def unreadable(*_: object) -> int | None:
        raise BrokerUnavailable("segment 0 of wires cannot be read: amqp://ensue:s3cret@rabbit/")

    monkeypatch.setattr("ensue.operations.gaps.before_last", unreadable)
    monkeypatch.setattr("ensue.console.screens.losses.compared", unreadable)
    browser = browse()
    shown = await browser.page(link("/applied", service="bank", topic="wires", number=where.number, source=source))
    assert "segment 0 of wires cannot be read" in shown
    assert 'value="rewind"' in shown
    restored = await browser.page("/restored?service=bank")
    assert "segment 0 of wires cannot be read" in restored
    assert "s3cret" not in shown + restored


async def test_a_database_that_went_back_is_reported_with_its_epochs(browse: Open, tmp_path: Path) -> None:
    await handle(("ann", 1, ""), applied=1)
    browser, copy = browse(services=(bank,)), tmp_path / "copy"
    shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("broker*", "copy"))
    await handle(("ann", 2, ""), ("ann", 3, ""), applied=3)
    assert "/restored?service=bank" in await browser.page("/losses")
    assert "No: the log holds nothing that it did not write" in await browser.page("/restored?service=bank")
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    went_back = await browser.page("/restored?service=bank")
    assert "Yes: it is an older copy" in went_back
    assert "the log holds another life&#39;s records" in went_back
    assert "ensue db new-epoch MODULE:bank" in went_back
    async with opened(bank, broker=True) as access, opened(bank, broker=True) as other:
        await other.store.outbox_after(0, 1)
        old, report = access.store.source, await compared(access)
        new = await begin_epoch(
            access, report.published, Deciding(actor="ann@desk", origin=Face.CLI, reason="from monday's copy")
        )
        # Another admin has compared them too, and comes later.
        with pytest.raises(UsageError, match="has ended meanwhile"):
            await begin_epoch(
                other, report.published, Deciding(actor="ann@desk", origin=Face.CLI, reason="from monday's copy")
            )
    said = Read(await browser.page("/restored?service=bank")).text
    assert f"It writes as {new} now" in said
    for text in (old, "ann@desk", "from monday's copy"):
        assert text in said


async def test_a_view_goes_on_without_what_it_lacks_when_the_count_is_typed(browse: Open) -> None:
    async with totals.running():
        await wire(("ann", 1, ""), letters=0)
    await holed(totals, LOST)
    browser = browse(services=(bank, totals))
    assert "ensue views accept-missing MODULE:totals" in await browser.page("/")
    lost = await browser.page(link("/loss", service=totals.name, topic="wires", number=0, source="till/a"))
    assert "What a view goes on without is kept with its version" in lost
    assert 'value="accept"' not in lost
    shown = await browser.page(link("/view", service=totals.name))
    assert "3 positions that it may never get" in shown
    # There is nothing to pause, to swap or to go back to.
    assert set(re.findall(r'name="do" value="([^"]+)"', shown)) == {"accept-missing"}
    fields = {"do": "accept-missing", "reason": "in the paper"}
    for gap, count, refusal in (
        (LOST, 2, "3 positions are missing in version 1 now, and 2 were confirmed"),
        (msgspec.structs.replace(LOST, watermark=5, lost_through=8), 3, "but others than when it was looked at"),
    ):
        await holed(totals, gap)
        answer = await browser.submit(shown, "/view", **fields, count=count)
        assert refusal in await browser.page(answer.headers["location"])
    assert await actions(totals) == []
    where = await holed(totals, LOST)
    done = await _decided(browser, totals.name, count=3, **fields)
    assert "version 1 goes on without 3 positions: wires/" in done
    assert (await closed(totals, where)).watermarks == {"till/a": 7}
    assert ("views accept-missing", "in the paper") in await actions(totals)
    assert "positions 5 to 7 of till/a" in await browser.page("/views")


async def test_a_view_is_built_asked_and_rolled_back(browse: Open) -> None:
    await wire(("ann", 1, ""), letters=0)
    browser = browse(services=(bank, new_totals))

    async def decide(do: str, **fields: object) -> str:
        return await _decided(browser, new_totals.name, do, **fields)

    async with totals.running():
        assert "version 1 is asked; version 2 is BUILDING" in (await decide("rebuild", rate=0.5)).replace(
            "building", "BUILDING"
        )
        assert "version 2 is paused" in await decide("pause")
        assert "possible when it is building" in await decide("pause")  # refused, and says why
        paused = await browser.page(link("/view", service=new_totals.name))
        assert 'name="rate" inputmode="decimal" autocomplete="off" value="0.5"' in paused
        refused = await browser.submit(paused, "/view", do="resume", reason="fast", rate="fast")
        assert "expected events a second" in refused.text
        assert "version 2 is building" in await decide("resume", rate="")
        assert "0.5 events a second" in await browser.page(link("/view", service=new_totals.name))  # as it was
        assert "version 2 is building" in await decide("resume", rate=0)
        async with new_totals.running():
            while "is asked; version 1 was asked before" not in await decide("swap"):
                pass  # refused while it is not ready
        assert "version 1 is asked" in await decide("rollback")
    assert "version 1 is asked" in await decide("drop", version=2)
    done = [action for action, _ in await actions(new_totals)]
    resumed = ["views resume", "views resume"]
    assert done == ["views rebuild", "views pause", *resumed, "views swap", "views rollback", "views drop"]
    assert "totals" in await browser.page("/views")


async def _decided(browser: Browser, service: str, do: str, **fields: object) -> str:
    shown = await browser.page(link("/view", service=service))
    answer = await browser.submit(shown, "/view", **{"service": service, "do": do, "reason": f"to {do}", **fields})
    return await browser.page(answer.headers["location"])
