"""What a browser hears of changes, and that a stream closes what it has opened, however its client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import pytest
from tests.console.conftest import Open, wire
from tests.console.world import absent, bank

from ensue.console import changes
from ensue.console.access import Actor
from ensue.console.apart import apart
from ensue.console.changes import standing, stream
from ensue.deciding import Deciding, Face
from ensue.operations import partitions
from ensue.operations.opening import opened


async def test_a_change_is_told_once_and_what_the_browser_has_seen_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "STREAM_S", 0.05)
    said = iter(["a", "a", "b", *["b"] * 100])

    async def look() -> str:
        return next(said)

    async with aclosing(stream(look, "", 0.001)) as events:
        found = [each async for each in events]
    told = [each for each in found if b"event: changed" in each]
    assert len(told) == 2
    last = told[-1].split(b"id: ")[1].split(b"\n")[0].decode()
    said = iter(["b"] * 200)
    async with aclosing(stream(look, last, 0.001)) as events:
        assert not [each async for each in events if b"changed" in each]


async def test_what_stands_is_another_text_when_something_is_decided_and_else_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    await wire(("bob", -1, ""), letters=1)
    async with opened(bank) as access:
        before = await standing(access)
        assert await standing(access) == before
        await partitions.pause(access, "wires", 0, Deciding(actor="ann", origin=Face.CONSOLE, reason="to see"))
        assert await standing(access) != before


async def test_a_stream_closes_what_it_has_opened_when_its_client_is_gone() -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            yield b"1"
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # as closing a database does: in a scope that is cancelled it would fail
            closed.set()

    async def read() -> None:
        async for _ in apart(source):
            pass

    async with anyio.create_task_group() as group:  # as Starlette ends an answer
        group.start_soon(read)
        await begun.wait()
        group.cancel_scope.cancel()
    await asyncio.wait_for(closed.wait(), 5)


async def test_a_stream_hands_on_all_that_its_source_yields_and_what_it_raises() -> None:
    async def source() -> AsyncGenerator[bytes, None]:
        for number in range(5):
            yield b"%d" % number
        raise RuntimeError("broken")

    found: list[bytes] = []

    async def read() -> None:
        async for each in apart(source):
            found.append(each)

    with pytest.raises(RuntimeError, match="broken"):
        await read()
    assert found == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_stream_ends_within_a_second_after_its_reader_lost_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the database that it asks has hung: nothing comes then."""
    monkeypatch.setattr("ensue.console.apart.ASKED_S", 0.01)
    closed, may = asyncio.Event(), [""] * 3

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            yield b"1"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def why_not() -> str:
        return may.pop() if may else "gone"

    async with asyncio.timeout(5):
        assert [each async for each in apart(source, why_not)] == [b"1"]
        await closed.wait()
    assert may == [], "it was asked until it said no"


async def test_both_live_streams_ask_the_host_again(monkeypatch: pytest.MonkeyPatch, browse: Open) -> None:
    monkeypatch.setattr("ensue.console.apart.ASKED_S", 0.01)
    known = [Actor("ann@desk", ["reader"])]

    def ask(_: object) -> Actor | None:
        return known[0] if known else None

    browser = browse(ask, services=(absent,))
    for query in ("service=absent", "run=none"):
        known[:] = [Actor("ann@desk", ["reader"])]
        asyncio.get_running_loop().call_later(0.05, known.clear)
        async with asyncio.timeout(5):  # STREAM_S is ten seconds
            answer = await browser.get(f"/changes?{query}")
        assert answer.status_code == 200
        assert (await browser.get(f"/changes?{query}")).status_code == 401
