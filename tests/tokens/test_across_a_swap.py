"""A token holds across a swap: whichever version answers, behind or ahead, nobody reads their own past.

The two versions have an app each, as two deployments have, and a client asks until one of them answers.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import Column, Integer, MetaData, String, Table
from tests.views.ledger import LIMIT_S, QUICK, until, until_ready, versions_of

from ensue import Event, Rows, Service, Step, TableRepository, View, ViewNotReady
from ensue.engine.view_runtime import ViewRuntime
from ensue.engine.view_versions import Versions
from ensue.integrations.fastapi import install, step_of
from ensue.ports import Broker
from ensue.views import states
from ensue.views.states import ViewRow

CLIENTS, ROUNDS, TURNS = 20, 12, 8


class PageTurned(Event, topic="swapped-pages", key="book"):
    book: str
    number: int


@dataclasses.dataclass
class Bookmark:
    book: str
    number: int


TABLES = MetaData()
BOOKMARKS = Table("bookmarks", TABLES, Column("book", String(60), primary_key=True), Column("number", Integer))


class Version:
    """gate: while it is not set, nothing takes effect."""

    def __init__(self, home: Path, number: int, wait_s: float) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.view = view = View(
            "bookmarks", version=number, tables=TABLES, repositories=[TableRepository(Bookmark, BOOKMARKS)],
            database=f"sqlite:///{home}/bookmarks.db?synchronous=OFF", broker=f"sqlite:///{home}/broker.db",
            partitions=3, engine=QUICK,
        )  # fmt: skip
        self.app = app = FastAPI()
        install(app, view, tokens=wait_s)

        @view.on
        async def turn(bookmark: Bookmark | None, event: PageTurned) -> Bookmark:
            await self.gate.wait()
            return Bookmark(event.book, event.number)

        @app.get("/books/{book}")
        async def read(book: str, rows: Annotated[Rows, Depends(view.rows, scope="function")]) -> int:
            found = await rows.get(Bookmark, book)
            return 0 if found is None else found.number

    @property
    def row(self) -> ViewRow:
        """As this version's process knows it."""
        runtime = self.view.runtime
        assert isinstance(runtime, ViewRuntime)
        return runtime.row


def make_shelf(home: Path) -> tuple[Service, FastAPI]:
    shelf = Service(
        "shelf", publishes=[PageTurned], database=f"sqlite:///{home}/shelf.db?synchronous=OFF",
        broker=f"sqlite:///{home}/broker.db", partitions=3, engine=QUICK,
    )  # fmt: skip
    app = FastAPI()
    install(app, shelf, tokens=True)

    @app.put("/books/{book}")
    async def turn(book: str, number: int, step: Annotated[Step, step_of(shelf)]) -> int:
        step.publish(PageTurned(book=book, number=number))
        return number

    return shelf, app


@dataclasses.dataclass
class Bench:
    first: Version
    second: Version
    versions: Versions
    broker: Broker
    clients: dict[FastAPI, httpx.AsyncClient]
    shelf: httpx.AsyncClient

    async def turned(self, book: str, number: int) -> dict[str, str]:
        answer = await self.shelf.put(f"/books/{book}", params={"number": number})
        assert answer.status_code == 200, answer.text
        return {"Ensue-Token": answer.headers["Ensue-Token"]}

    async def ask(self, version: Version, book: str, token: dict[str, str]) -> httpx.Response:
        return await self.clients[version.app].get(f"/books/{book}", headers=token)

    async def swapped(self, number: int) -> None:
        """Return when both apps know."""
        for version in (self.first, self.second):

            async def known(version: Version = version) -> bool:
                return version.row.active == number

            await until(known, f"version {number} in the app of {version.view.name}")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path) as found:
        yield found


@asynccontextmanager
async def make_bench(home: Path, wait_s: float = LIMIT_S) -> AsyncIterator[Bench]:
    shelf, shelf_app = make_shelf(home)
    first, second = (Version(home, number, wait_s) for number in (1, 2))
    async with AsyncExitStack() as stack:
        clients: dict[FastAPI, httpx.AsyncClient] = {}
        for app in (shelf_app, first.app, second.app):
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=LIMIT_S)
            clients[app] = await stack.enter_async_context(client)
        versions = await stack.enter_async_context(versions_of(second.view))
        broker = shelf.runtime.context.broker
        yield Bench(first, second, versions, broker, clients, clients[shelf_app])
        for version in (first, second):
            version.gate.set()


async def test_a_version_that_is_not_ready_refuses_a_token_at_once(bench: Bench) -> None:
    token = await bench.turned("a", 1)
    assert (await bench.ask(bench.first, "a", token)).text == "1"
    for state in ("not built", "being built"):
        if state == "being built":
            bench.second.gate.clear()  # it stays behind
            await bench.versions.rebuild(2, "me")

            async def building() -> bool:
                return bench.second.row.building == 2

            await until(building, "the building")
        refused = await bench.ask(bench.second, "a", token)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:ensue:problem:view-not-ready"), refused.text
        assert (refused.json()["version"], refused.json()["active"]) == (2, 1)
        with pytest.raises(ViewNotReady, match=state):
            await bench.second.view.caught_up(token["Ensue-Token"], timeout=LIMIT_S)


async def test_who_writes_before_a_swap_and_reads_behind_it_waits_for_a_version_that_is_behind(bench: Bench) -> None:
    await bench.turned("a", 1)
    await bench.versions.rebuild(2, "me")
    await until_ready(bench.versions, 2, bench.broker)
    bench.second.gate.clear()
    token = await bench.turned("a", 2)
    await bench.versions.book.change(states.swap(2, "me"))  # by one who has looked before the write
    await bench.swapped(2)
    assert (await bench.ask(bench.first, "a", token)).text == "2"  # it is fed as before, and ahead
    reading = asyncio.create_task(bench.ask(bench.second, "a", token))
    assert (await bench.ask(bench.second, "a", {})).text == "1"  # which is this client's past
    assert not reading.done()
    bench.second.gate.set()
    assert (await reading).text == "2"


async def test_who_writes_before_a_swap_and_reads_behind_it_is_not_held_up_by_the_version_before(bench: Bench) -> None:
    await bench.turned("a", 1)
    await bench.versions.rebuild(2, "me")
    await until_ready(bench.versions, 2, bench.broker)
    bench.first.gate.clear()
    token = await bench.turned("a", 2)
    await bench.versions.swap(2, "me", bench.broker)
    await bench.swapped(2)
    assert (await bench.ask(bench.second, "a", token)).text == "2"
    reading = asyncio.create_task(bench.ask(bench.first, "a", token))
    assert (await bench.ask(bench.first, "a", {})).text == "1"
    assert not reading.done()
    bench.first.gate.set()
    assert (await reading).text == "2"


async def test_who_waits_at_a_version_that_is_dropped_is_sent_to_the_one_that_is_asked(bench: Bench) -> None:
    await bench.turned("a", 1)
    await bench.versions.rebuild(2, "me")
    await until_ready(bench.versions, 2, bench.broker)
    await bench.versions.swap(2, "me", bench.broker)
    await bench.swapped(2)
    bench.first.gate.clear()
    token = await bench.turned("a", 2)
    waiting = bench.first.view.runtime.context.caught_up
    reading = asyncio.create_task(bench.ask(bench.first, "a", token))

    async def waits() -> bool:
        return waiting.waiting == 1

    await until(waits, "the reader")
    dropping = asyncio.create_task(bench.versions.drop(1, "me"))
    refused = await reading
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:ensue:problem:view-not-ready"), refused.text
    assert refused.json()["active"] == 2
    bench.first.gate.set()
    await dropping
    assert (await bench.ask(bench.second, "a", token)).text == "2"


async def test_clients_never_read_their_own_past_while_the_versions_take_turns(bench: Bench) -> None:
    chance = Random(7)
    await bench.turned("a", 1)
    await bench.versions.rebuild(2, "me")
    await until_ready(bench.versions, 2, bench.broker)
    await bench.versions.swap(2, "me", bench.broker)
    await bench.swapped(2)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await bench.versions.rollback("me", bench.broker)
            turns += 1
            for version in (bench.first, bench.second):  # each stands still for a while, one after the other
                version.gate.clear()
                await asyncio.sleep(chance.uniform(0, 0.03))
                version.gate.set()

    async def write_and_read(book: str) -> None:
        number = 0
        while number < ROUNDS or turns < TURNS:
            number += 1
            token = await bench.turned(book, number)
            answer = await bench.ask(chance.choice((bench.first, bench.second)), book, token)
            assert (answer.status_code, answer.text) == (200, str(number))

    turning = asyncio.create_task(take_turns())
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for each in range(CLIENTS):
            group.create_task(write_and_read(f"book-{each}"))
    turning.cancel()
    await asyncio.gather(turning, return_exceptions=True)
    assert turns >= TURNS
