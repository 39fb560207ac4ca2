"""Events of older versions: read as what upcasters make of them, wherever they come from."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.engine.workbench import bench, until_letters

from ensue import Aggregate, Command, Event, Saga, Service, Step, UsageError, as_event, evolves, upcast
from ensue.brokers.embedded import EmbeddedBroker
from ensue.carried import checked_key
from ensue.codec import decode_envelope, encode_envelope
from ensue.errors import BadMessage
from ensue.event import as_now, declared_as, event_type
from ensue.message import TOLD, DeadLetterState, Envelope
from ensue.saga.instance import received_as_now
from ensue.saga.journal import Entry, Issued, Resolved
from ensue.stores.memory import MemoryStore
from ensue.tables import AGGREGATES, STREAMS


class Joined(Event, topic="upcast.members", key="member_id", version=3):
    """Version 1 had `name`, version 2 `first` and `last`."""

    member_id: str
    last: str
    first: str
    greeting: str


@Joined.upcast(from_version=1)
def _(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data.pop("name").partition(" ")
    return {**data, "first": first, "last": last}


@Joined.upcast(from_version=2)
def _(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "greeting": f"Dear {data['first']}"}


ADA = Joined(member_id="a", first="Ada", last="Lovelace", greeting="Dear Ada")
OLD: dict[str, bytes] = {
    "upcast.members.Joined.v1": b'{"member_id":"a","name":"Ada Lovelace"}',
    "upcast.members.Joined.v2": b'{"member_id":"a","first":"Ada","last":"Lovelace"}',
    "upcast.members.Joined.v3": b'{"member_id":"a","first":"Ada","last":"Lovelace","greeting":"Dear Ada"}',
}


@pytest.mark.parametrize("kind", OLD)
def test_three_versions_are_read_as_one(kind: str) -> None:
    assert declared_as(kind).read(OLD[kind]) == ADA
    now, data = as_now(kind, OLD[kind])
    assert now == "upcast.members.Joined.v3"
    assert event_type(Joined).read(data) == ADA


def test_numbers_of_any_size_come_through() -> None:
    class Measured(Event, topic="upcast.measured", key="name", version=2):
        name: str
        count: int
        rate: float

    @Measured.upcast(from_version=1)
    def _(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "name": data["name"].upper()}

    older = event_type(Measured).as_older(1)
    assert older.read(b'{"name":"x","count":9007199254740993,"rate":0.1}') == Measured(
        name="X", count=9007199254740993, rate=0.1
    )


def test_what_an_upcaster_does_wrong_names_it() -> None:
    class Wrong(Event, topic="upcast.wrong", key="name", version=2):
        name: str

    @Wrong.upcast(from_version=1)
    def _(data: dict[str, Any]) -> dict[str, Any]:
        return data["missing"]  # type: ignore[no-any-return]

    older = event_type(Wrong).as_older(1)
    with pytest.raises(UsageError, match=r"the upcaster of .*Wrong from version 1 raised KeyError\('missing'\)"):
        older.read(b'{"name":"x"}')
    with pytest.raises(UsageError, match="returned 7, expected the dict"):
        older.read(b'{"missing":7}')
    with pytest.raises(BadMessage, match="the data does not fit"):
        older.read(b"no JSON")


def test_what_cannot_be_declared_is_refused() -> None:
    class Odd(Event, topic="upcast.odd", key="name", version=3):
        name: str

    for version in (0, 3, 4, True, "1"):
        with pytest.raises(UsageError, match="expected an older one"):
            Odd.upcast(from_version=version)  # type: ignore[arg-type]
    Odd.upcast(from_version=1)(lambda data: data)
    with pytest.raises(UsageError, match="there is one from version 1 already"):
        Odd.upcast(from_version=1)(lambda data: data)
    with pytest.raises(UsageError, match=re.escape("has no upcaster from 2, and one from 1")):
        _ = event_type(Odd).older

    async def later(data: dict[str, Any]) -> dict[str, Any]:
        return data

    with pytest.raises(UsageError, match="a plain function"):
        Odd.upcast(from_version=2)(later)  # type: ignore[arg-type]


def test_models_and_commands_have_them_too() -> None:
    import dataclasses

    @as_event(topic="upcast.plain", key="name", version=2)
    @dataclasses.dataclass(frozen=True)
    class Plain:
        name: str
        size: int

    @upcast(Plain, from_version=1)
    def _(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "size": 1}

    class Resize(Command[None], service="upcasters", key="name", version=2):
        name: str
        size: int

    @Resize.upcast(from_version=1)
    def _(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "size": 2}

    service = Service("upcasters")
    seen: list[object] = []

    @service.on
    async def plain(event: Plain) -> None:
        seen.append(event)

    @service.handles
    async def resize(command: Resize) -> None:
        seen.append(command)

    for kind in ("upcast.plain.Plain.v1", "upcasters.commands.Resize.v1"):
        [handler] = service.handlers[kind]
        seen.append(handler.event.read(b'{"name":"x"}'))
    assert seen == [Plain("x", 1), Resize(name="x", size=2)]
    assert service.handlers["upcasters.commands.Resize.v1"][0].command is not None


def emit(step: Step, kind: str, after: datetime.timedelta | None = None) -> None:
    """As a service of an older release publishes."""
    due = None if after is None else step.now + after
    step.emit("upcast.members", kind, "a", checked_key(kind, "a"), OLD[kind], None, due)


class Member(Aggregate, stream="member", snapshot_every=2):
    member_id: str
    names: str = ""

    @evolves
    def _(self, event: Joined) -> None:
        self.names += f"{event.greeting} {event.last};"


async def test_from_the_log_and_from_timers(tmp_path: Path) -> None:
    import ensue.testing

    sender, club = Service("sender"), Service("club")
    seen: list[Joined] = []

    @club.on
    async def greet(event: Joined) -> None:
        seen.append(event)

    async with ensue.testing.run(sender, club) as world:
        async with sender.step() as step:
            for kind in OLD:
                emit(step, kind)
                emit(step, kind, datetime.timedelta(hours=1))
        await world.settle()
        assert seen == [ADA] * 3
        await world.advance(hours=2)
        assert seen == [ADA] * 6


async def test_a_stream_with_events_of_three_versions() -> None:
    store = MemoryStore("members")
    await store.open()
    async with store.transaction() as transaction:
        rows = [
            (f"member:a:{version:010}", encode_envelope(Envelope(f"m{version}", kind, "2026-11-27T00:00:00Z")), data)
            for version, (kind, data) in enumerate(OLD.items(), 1)
        ]
        await transaction.insert_rows(STREAMS, rows)
        await transaction.insert_rows(AGGREGATES, [("member:a", "member", 3, 0, "", b"")])
    repository: Any = Service("members", aggregates=[Member]).repositories[Member]
    async with store.transaction() as transaction:
        found = (await repository.load(transaction, ["a"]))["a"]
    assert found == Member("a", names="Dear Ada Lovelace;" * 3)


class PricedOnce(Event, topic="upcast.prices", key="name", type_name="Priced"):
    name: str
    price: str


class Priced(Event, topic="upcast.prices", key="name", type_name="Priced", version=2):
    name: str
    cents: int


@Priced.upcast(from_version=1)
def _(data: dict[str, Any]) -> dict[str, Any]:
    return {"name": data["name"], "cents": round(float(data["price"]) * 100)}


async def test_a_letter_of_an_old_shape_is_released_once_an_upcaster_is_there(tmp_path: Path) -> None:
    before, shop, after = Service("shelf"), Service("pricing"), Service("shelf")
    seen: list[Priced] = []

    @before.on
    async def label(event: PricedOnce) -> None:
        raise ValueError(f"{event.price} is no number of cents")

    @after.on(name="label")
    async def label_in_cents(event: Priced) -> None:
        seen.append(event)

    log = f"sqlite:///{tmp_path}/broker.db"
    async with bench(tmp_path, before, shop, broker=EmbeddedBroker(log)) as world:
        async with shop.step() as step:
            step.publish(PricedOnce(name="tea", price="2.50"))
        await until_letters(world, before, 1)
        await world.settle()
        [letter] = await world.dead_letters(before)
        kind = decode_envelope(letter.envelope).type
        assert (kind, letter.state) == ("upcast.prices.Priced.v1", DeadLetterState.DEAD)
    async with bench(tmp_path, after, broker=EmbeddedBroker(log)) as world:
        await world.retry(after, letter)
        await world.settle()
        assert await world.dead_letters(after) == []
    assert seen == [Priced(name="tea", cents=250)]


def test_a_saga_that_has_received_an_older_version_goes_on() -> None:
    kind = "upcast.members.Joined.v1"
    journal: list[Entry] = [Issued(1, "receive", kind), Resolved(1, 1.0, msgspec.Raw(OLD[kind])), Issued(2, "sleep")]
    issued, resolved, other = received_as_now(journal)
    assert isinstance(issued, Issued)
    assert isinstance(resolved, Resolved)
    assert (issued.name, json.loads(bytes(resolved.data))["greeting"]) == ("upcast.members.Joined.v3", "Dear Ada")
    assert other == journal[2]


async def test_a_saga_is_told_an_older_version() -> None:
    import ensue.testing

    club = Service("sagaclub")
    greeted: list[str] = []

    @club.outside
    async def note(text: str) -> None:
        greeted.append(text)

    @club.saga
    async def welcome(saga: Saga, request: Joined) -> None:
        joined = await saga.receive(Joined)
        await saga.outside(note, joined.greeting, undo=None)

    async with ensue.testing.run(club) as world:
        async with club.step() as step:
            step.start(welcome, ADA, id="a")
            key, data = welcome.__ensue_saga__.tells(ADA, "a")  # type: ignore[attr-defined]
            told = json.loads(data)
            told |= {"type": "upcast.members.Joined.v1", "data": json.loads(OLD["upcast.members.Joined.v1"])}
            step.wake(key, json.dumps(told).encode(), TOLD)
        await club.ended(welcome, "a", timeout=10)
        await world.settle()
    assert greeted == ["Dear Ada"]
