"""A view is compared with the fold of its events, and folded up to a time: on each store that keeps views."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Column, Double, Integer, MetaData, String, Table, insert, update
from tests.unit.engine.workbench import QUICK, Sender, bench, letters, until_letters

from ensue import Event, Lookup, Service, Step, TableRepository, UsageError
from ensue.adapters import make_place, make_store
from ensue.brokers.memory import MemoryBroker
from ensue.codec import encode_envelope
from ensue.config import Settings
from ensue.engine.agreement import Folds, left_out
from ensue.engine.clock import rfc3339
from ensue.engine.fold import FoldFailed
from ensue.engine.snapshot import tables_of
from ensue.errors import RetryableError
from ensue.message import DeadLetterState, Envelope, OutboxRecord
from ensue.testing import World

PARTITIONS = 2


class ShelfFilled(Event, topic="agree-shelves", key="shelf"):
    shelf: str
    books: int


class ShelfNamed(Event, topic="agree-names", key="shelf"):
    shelf: str
    name: str


class ShelfSpoiled(Event, topic="agree-shelves", key="shelf"):
    """What its handler does not take."""

    shelf: str


metadata = MetaData()
shelves = Table(
    "agree_shelves",
    metadata,
    Column("shelf", String(40), primary_key=True),
    Column("name", String(40), nullable=False),
    Column("books", Integer, nullable=False),
    Column("seen_at", Double, nullable=False),
)


@dataclasses.dataclass(slots=True)
class Shelf:
    shelf: str
    name: str = ""
    books: int = 0
    seen_at: float = 0.0


def library(*, clock: bool = False, spoils: bool = True) -> Service:
    """clock: a column says when a handler ran."""
    lookups = [Lookup((), ("shelf",))]
    service = Service(
        "library", publishes=[], tables=metadata, repositories=[TableRepository(Shelf, shelves, lookups=lookups)]
    )

    @service.on
    def fill(shelf: Shelf | None, event: ShelfFilled) -> Shelf:
        shelf = shelf or Shelf(event.shelf)
        shelf.books += event.books
        shelf.seen_at = time.time() if clock else 1.0
        return shelf

    @service.on
    def name(shelf: Shelf, event: ShelfNamed) -> None:
        """Comes from another topic, perhaps before the shelf: then it is tried again."""
        shelf.name = event.name

    @service.on
    def spoil(shelf: Shelf, event: ShelfSpoiled) -> None:
        shelf.books = 0
        if spoils:
            raise RetryableError("spoilt")

    return service


KINDS = ("sqlite", "postgresql", "mariadb", "redis", "mongodb")


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from _database(request, request.param, tmp_path)


@pytest.fixture(params=KINDS[:3])
def sql(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from _database(request, request.param, tmp_path)


def _database(request: pytest.FixtureRequest, kind: str, directory: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{directory}/library.db?synchronous=OFF"
        return
    fixtures = {"postgresql": "postgres_server"}
    server: Any = request.getfixturevalue(fixtures.get(kind, f"{kind}_server"))
    if kind == "redis":
        yield server.url(41)
        return
    name = f"agree{uuid4().hex[:8]}"
    yield server.url(name, kind) if kind in ("postgresql", "mariadb") else server.url(name)
    if kind in ("postgresql", "mariadb"):
        server.drop(name)


@pytest.fixture(autouse=True)
async def _empty(request: pytest.FixtureRequest) -> None:
    if "redis" in request.node.name:
        import redis.asyncio as driver

        async with driver.Redis.from_url(request.getfixturevalue("redis_server").url(41)) as client:
            await client.flushdb()


@dataclasses.dataclass
class Stage:
    world: World
    sender: Sender
    service: Service
    folds: Folds


@asynccontextmanager
async def stage(url: str, service: Service) -> AsyncIterator[Stage]:
    """The service at work, and what folds its events into places beside its database."""
    log = f"memory:{uuid4()}"
    broker = MemoryBroker(log)
    settings = Settings(database=url, broker="", partitions=PARTITIONS, engine=QUICK)
    places = [make_place(url, service.name, f"check_{number}") for number in (0, 1)]
    await broker.open()
    for topic in service.subscribed_topics:
        await broker.ensure_topic(topic, PARTITIONS)
    try:
        for each in places:
            await each.remove()
            await each.make()
        store = make_store(url, service.name)
        async with bench(Path(), service, broker=broker, stores={service.name: store}, partitions=PARTITIONS) as world:
            folds = Folds(
                service,
                lambda: make_store(url, service.name),
                lambda number: make_store(places[number].url, places[number].service),
                lambda: MemoryBroker(log),
                settings,
                metadata,
            )
            yield Stage(world, Sender(world.broker, "desk/1", PARTITIONS), service, folds)
    finally:
        for each in places:
            await each.remove()


def some_events(count: int = 60, seed: int = 7) -> list[Event]:
    """Names may come before their shelves are there."""
    chance = random.Random(seed)
    events: list[Event] = [ShelfNamed(shelf=f"s{number}", name=f"shelf {number}") for number in range(10)]
    events += [ShelfFilled(shelf=f"s{each % 10}", books=chance.randint(1, 9)) for each in range(count)]
    return events


async def test_a_view_that_is_what_follows_from_its_events_agrees(database: str) -> None:
    async with stage(database, library()) as found:
        await found.sender.send(*some_events())
        await found.world.settle(60)
        assert not await letters(found.world, found.service)
        verdict = await found.folds.check()
        assert verdict.agrees, verdict
        assert verdict.rows == {"agree_shelves": 10}
        # And again, further on: the fold goes on where it was.
        await found.sender.send(*some_events(40, seed=8)[10:])
        await found.world.settle(60)
        assert (await found.folds.check()).agrees


async def test_a_row_that_was_tampered_with_is_found_and_named(database: str) -> None:
    async with stage(database, library()) as found:
        await found.sender.send(*some_events())
        await found.world.settle(60)
        repository = TableRepository(Shelf, shelves, lookups=[Lookup((), ("shelf",))])
        async with found.world.runtimes["library"].store.transaction() as transaction:
            shelf = (await repository.load(transaction, ["s3"]))["s3"]
            shelf.books, was = 1000, shelf.books
            await repository.save(transaction, {"s3": shelf}, {})
        verdict = await found.folds.check()
        [difference] = verdict.differences
        assert str(difference) == f"agree_shelves s3: books is 1000, expected {was}"
        assert not verdict.unsteady
        assert (await found.folds.check(["agree_shelves.books"])).agrees, "what is to be left out is left out"


async def test_a_row_that_is_gone_and_one_that_follows_from_no_event_are_found(sql: str) -> None:
    async with stage(sql, library()) as found:
        await found.sender.send(*some_events())
        await found.world.settle(60)
        async with found.world.runtimes["library"].store.transaction() as transaction:
            await transaction.session.execute(update(shelves).where(shelves.c.shelf == "s3").values(shelf="other"))
        verdict = await found.folds.check()
        assert sorted(map(str, verdict.differences)) == [
            "agree_shelves other: follows from no event",
            "agree_shelves s3: is missing",
        ]


notes_metadata = MetaData()
notes = Table("agree_notes", notes_metadata, Column("shelf", String(40)), Column("books", Integer))


async def test_a_row_of_a_table_without_a_key_that_is_there_twice_is_found(sql: str) -> None:
    service = Service("library", publishes=[], tables=notes_metadata)

    @service.on
    async def note(event: ShelfFilled, step: Step) -> None:
        await step.session.execute(insert(notes).values(shelf=event.shelf, books=event.books))

    async with stage(sql, service) as found:
        folds = dataclasses.replace(found.folds, tables=notes_metadata)
        await found.sender.send(*(ShelfFilled(shelf=f"s{number}", books=number) for number in range(5)))
        await found.world.settle(60)
        assert (await folds.check()).agrees
        async with found.world.runtimes["library"].store.transaction() as transaction:
            await transaction.session.execute(insert(notes), [{"shelf": "s3", "books": 3}] * 2)
        [difference] = (await folds.check()).differences
        assert str(difference) == "agree_notes s3, 3: is there 3 times, expected 1"


async def test_a_fold_that_asks_the_clock_is_told_from_a_row_that_was_changed(database: str) -> None:
    async with stage(database, library(clock=True)) as found:
        await found.sender.send(*some_events())
        await found.world.settle(60)
        verdict = await found.folds.check()
        assert not verdict.agrees
        assert verdict.unsteady == ["agree_shelves.seen_at"]
        assert not verdict.differences
        assert (await found.folds.check(["agree_shelves.seen_at"])).agrees


async def test_what_is_set_aside_and_what_waits_behind_it_is_left_out_on_both_sides(sql: str) -> None:
    async with stage(sql, library()) as found:
        await found.sender.send(*some_events())
        await found.world.settle(60)
        await found.sender.send(ShelfSpoiled(shelf="s3"), ShelfFilled(shelf="s3", books=5))
        await until_letters(found.world, found.service, 1, DeadLetterState.DEAD)
        await until_letters(found.world, found.service, 1, DeadLetterState.WAITING)
        found.folds = dataclasses.replace(found.folds, definition=library(spoils=False))
        verdict = await found.folds.check()
        assert verdict.agrees, verdict
        assert verdict.set_aside == 2


async def test_nothing_of_a_check_is_seen_in_the_log(sql: str) -> None:
    async with stage(sql, library()) as found:
        await found.sender.send(*some_events())
        await found.world.settle(60)
        before = await lasts(found)
        assert (await found.folds.check()).agrees
        assert await lasts(found) == before


async def lasts(found: Stage) -> dict[tuple[str, int], int]:
    """Of all partitions of all topics."""
    broker = found.world.broker
    places = [(topic, number) for topic, count in (await broker.topics()).items() for number in range(count)]
    return {each: (await broker.bounds(*each)).last for each in places}


async def test_a_log_whose_beginning_is_gone_is_no_ground_to_judge_by(tmp_path: Path) -> None:
    async with stage(f"sqlite:///{tmp_path}/library.db", library()) as found:
        await found.sender.send(*some_events())
        await found.world.settle(60)
        assert await found.world.broker.prune("agree-shelves", 0, time.time() + 10, 5)
        before = await lasts(found)
        with pytest.raises(FoldFailed, match=r"agree-shelves/0: desk/1 through position 0 only, of \d+"):
            await found.folds.check()
        assert await lasts(found) == before, "a fold asks no source for what is missing"


async def test_a_handler_that_fails_in_the_fold_alone_ends_it_and_is_named(tmp_path: Path) -> None:
    async with stage(f"sqlite:///{tmp_path}/library.db", library(spoils=False)) as found:
        await found.sender.send(*some_events(), ShelfSpoiled(shelf="s3"))
        await found.world.settle(60)
        found.folds = dataclasses.replace(found.folds, definition=library())
        with pytest.raises(FoldFailed, match="key s3: RetryableError: handler spoil: spoilt"):
            await found.folds.check()


async def test_events_that_go_on_while_it_is_checked_are_no_difference(sql: str) -> None:
    async with stage(sql, library()) as found:
        await found.sender.send(*some_events())

        async def go_on() -> None:
            for seed in range(40):
                await found.sender.send(*some_events(12, seed)[10:])
                await asyncio.sleep(0)

        going = asyncio.create_task(go_on())
        for _ in range(3):
            assert (await found.folds.check()).agrees
        await going


async def test_rows_at_a_time_are_those_that_were_recorded_then(database: str) -> None:
    async with stage(database, library()) as found:
        recorded: dict[int, dict[str, int]] = {}
        expected: dict[str, int] = {}
        records: list[OutboxRecord] = []
        for minute, event in enumerate(each for each in some_events(40) if isinstance(each, ShelfFilled)):
            record = found.sender.record(event)
            envelope = Envelope(f"m{minute}", "agree-shelves.ShelfFilled.v1", rfc3339(60.0 * minute))
            record.envelope = encode_envelope(envelope)
            records.append(record)
            expected[event.shelf] = expected.get(event.shelf, 0) + event.books
            recorded[minute] = dict(expected)
        await found.sender.append(*records)
        await found.world.settle(60)
        for minute in (5, 39, 12):
            await _fresh(found)
            await found.folds.at(60.0 * minute)
            assert await _books(found) == recorded[minute]
        await _fresh(found)
        await found.folds.at(60.0 * 30, key="s3")
        assert await _books(found) == {"s3": recorded[30]["s3"]}


async def _books(found: Stage) -> dict[str, int]:
    async with found.folds.folded() as (state, compared):
        return {key[0]: row["books"] async for key, row in state.rows(compared[0])}


async def _fresh(found: Stage) -> None:
    """An earlier fold came further: begin anew."""
    place = make_place(found.folds.settings.database, found.service.name, "check_0")
    await place.remove()
    await place.make()


def test_what_publishes_is_not_folded() -> None:
    from ensue.engine.fold import check_foldable

    with pytest.raises(UsageError, match="may publish anything"):
        check_foldable(Service("any"))
    with pytest.raises(UsageError, match=r"does more than keep rows \(ShelfFilled\)"):
        check_foldable(Service("some", publishes=[ShelfFilled]))


def test_a_column_that_is_not_there_cannot_be_ignored_nor_one_of_a_key(tmp_path: Path) -> None:
    compared = tables_of(library(), metadata, make_store(f"sqlite:///{tmp_path}/x.db", "library"))
    with pytest.raises(UsageError, match=r"no such table or column; there are agree_shelves\.shelf, "):
        left_out(compared, ["agree_shelves.colour"])
    with pytest.raises(UsageError, match="tells one row from another"):
        left_out(compared, ["agree_shelves.shelf"])
    [shelves] = compared
    other = dataclasses.replace(shelves, name="agree_others")
    assert [each.name for each in left_out([shelves, other], ["agree_shelves"])] == ["agree_others"]
    with pytest.raises(UsageError, match="no table is left to be compared"):  # and all would seem to agree
        left_out(compared, ["agree_shelves"])
