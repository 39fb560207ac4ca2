"""What SQLAlchemy lets people map: an entity step on it gives the same on each SQL store, however large the batch."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

import pytest
from sqlalchemy import JSON, ForeignKey, String, Text, func, select
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    column_property,
    mapped_column,
    relationship,
)
from sqlalchemy.types import TypeDecorator
from tests.unit.engine.workbench import config
from tests.unit.stores.conftest import MakeStore

from ensue import Event, Retry, Service, Step, UsageError
from ensue.engine.clock import UniqueIds
from ensue.engine.dispatch import Dispatcher
from ensue.testing import World, run


class Happened(Event, topic="t-features", key="thing_id"):
    thing_id: str
    what: str = ""
    other_id: str = ""


class Parted(Event, topic="t-features", key="thing_id"):
    """Of another type, so that its entities are loaded together with those of the type above."""

    thing_id: str
    what: str = ""
    other_id: str = ""


class Counted(Event, topic="t-counts", key="thing_id"):
    thing_id: str


class Base(DeclarativeBase):
    pass


class Named:
    """A mixin."""

    thing_id: Mapped[str] = mapped_column("The Id", String(50), primary_key=True)
    count: Mapped[int] = mapped_column("how%many", default=0)


class Filed(Base):
    __abstract__ = True
    note: Mapped[str] = mapped_column(String(50), default="", deferred=True)


class Thing(Named, Filed):
    """Single-table inheritance, odd names, JSON, a version, what the database fills in, an expression."""

    __tablename__ = "thing"
    kind: Mapped[str] = mapped_column(String(20))
    data: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON), default=dict)
    place: Mapped[str] = mapped_column(String(20), server_default="here")
    version: Mapped[int] = mapped_column()
    parts: Mapped[list[Part]] = relationship(lazy="selectin", cascade="all, delete-orphan")
    marks: Mapped[list[Mark]] = relationship()
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plain", "version_id_col": version}  # noqa: RUF012  # as SQLAlchemy wants it

    @hybrid_property
    def double(self) -> int:
        return self.count * 2


class Special(Thing):
    bonus: Mapped[int | None] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "special"}  # noqa: RUF012


class Part(Base):
    __tablename__ = "part"
    id: Mapped[str] = mapped_column(String(50), primary_key=True)
    thing_id: Mapped[str | None] = mapped_column(ForeignKey("thing.The Id"))


class Mark(Base):
    __tablename__ = "mark"
    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[str] = mapped_column(ForeignKey("thing.The Id"))


Thing.seen = column_property(select(func.count(Part.id)).where(Part.thing_id == Thing.thing_id).scalar_subquery())


class Built(MappedAsDataclass, Base, kw_only=True):
    __tablename__ = "built"
    id: Mapped[str] = mapped_column(String(50), primary_key=True)
    made: Mapped[datetime.datetime] = mapped_column(init=False, server_default=func.now())
    total: Mapped[int] = mapped_column(init=False, default=0)


class AsText(TypeDecorator[Any]):
    """As people kept JSON before databases did."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        return json.loads(value or "null")


class Page(Base):
    """Values that can be changed without SQLAlchemy noticing it."""

    __tablename__ = "page"
    id: Mapped[str] = mapped_column(String(50), primary_key=True)
    plain: Mapped[dict[str, Any]] = mapped_column(JSON)
    nested: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON))  # notices its own keys only
    text: Mapped[list[str]] = mapped_column(AsText)
    lines: Mapped[list[PageLine]] = relationship(lazy="selectin")


class PageLine(Base):
    __tablename__ = "page_line"
    id: Mapped[str] = mapped_column(String(50), primary_key=True)
    page_id: Mapped[str] = mapped_column(ForeignKey("page.id"))
    words: Mapped[list[str]] = mapped_column(JSON)


def service() -> Service:
    return Service("things", tables=Base.metadata, publishes=[Happened, Parted, Counted], retry=Retry(attempts_max=1))


async def happen(world: World, things: Service, *events: Event, given: tuple[object, ...] = ()) -> list[str]:
    """Return what the dead letters say."""
    runtime = world.runtimes["things"]
    async with runtime.step() as step:
        step.session.add_all(given)
        await step.session.flush()
        for event in events:
            step.publish(event)
    await world.settle()
    return [letter.error for letter in await world.dead_letters(things)]


@pytest.fixture(params=[1, 50])
def batch(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def test_mapped_things_are_loaded_changed_and_saved(make_store: MakeStore | None, batch: int) -> None:
    things = service()
    seen: list[Any] = []

    @things.on
    def change(thing: Thing, event: Happened) -> None:
        seen.append((type(thing).__name__, thing.count, thing.double, thing.place, dict(thing.data), thing.version))
        thing.count += 1
        thing.data[event.what] = thing.count
        if isinstance(thing, Special):
            thing.bonus = (thing.bonus or 0) + 10

    @things.on
    def more(thing: Special | None, event: Happened) -> None:
        if thing is not None:
            thing.bonus = (thing.bonus or 0) + 1

    async with run(things, make_store=make_store, engine=config(batch_records_max=batch)) as world:
        given = (Thing(thing_id="a"), Special(thing_id="b", place="there"))
        events = [Happened(thing_id=each, what=f"{number}") for number in range(2) for each in ("a", "b")]
        assert await happen(world, things, *events, given=given) == []
        assert sorted(seen) == [
            ("Special", 0, 0, "there", {}, 1), ("Special", 1, 2, "there", {"0": 1}, 3),
            ("Thing", 0, 0, "here", {}, 1), ("Thing", 1, 2, "here", {"0": 1}, 2),
        ]  # fmt: skip
        async with world.runtimes["things"].reading() as session:
            found = [await session.get_one(Thing, each) for each in ("a", "b")]
            assert [(each.count, each.data) for each in found] == [(2, {"0": 1, "1": 2})] * 2
            assert [each.version for each in found] == [3, 5], "each handler that changes one moves its version"
            assert await session.scalar(select(Special.bonus)) == 22


async def test_a_dataclass_that_is_mapped_is_made_and_changed(make_store: MakeStore | None, batch: int) -> None:
    things = service()

    @things.on(id="thing_id")
    def build(built: Built | None, event: Happened) -> Built:
        built = built or Built(id=event.thing_id)
        built.total += 1 if isinstance(built.made, datetime.datetime) else 10
        return built

    async with run(things, make_store=make_store, engine=config(batch_records_max=batch)) as world:
        assert await happen(world, things, *[Happened(thing_id="a")] * 3) == []
        async with world.runtimes["things"].reading() as session:
            assert (await session.get_one(Built, "a")).total == 12


async def test_a_step_changes_what_is_inside_of_a_value(make_store: MakeStore | None, batch: int) -> None:
    things = service()
    seen: list[int] = []

    @things.on(id="thing_id")
    def write(page: Page, event: Happened) -> None:
        seen.append(len(page.plain))
        page.plain[event.what] = {"read": False}
        page.nested["words"].append(event.what)
        page.text.append(event.what)
        page.lines[0].words.append(event.what)

    @things.on(id="thing_id")
    def read(page: Page, event: Parted) -> None:
        for each in page.plain.values():
            each["read"] = True

    async with run(things, make_store=make_store, partitions=1, engine=config(batch_records_max=batch)) as world:
        lines = [PageLine(id="l", words=[])]
        given = (Page(id="a", plain={}, nested={"words": []}, text=[], lines=lines),)
        events = [Happened(thing_id="a", what="x"), Parted(thing_id="a"), Happened(thing_id="a", what="y")]
        assert await happen(world, things, *events, given=given) == []
        assert seen == [0, 1]
        async with world.runtimes["things"].reading() as session:
            page = await session.get_one(Page, "a")
            assert page.plain == {"x": {"read": True}, "y": {"read": False}}
            assert (page.nested["words"], page.text, page.lines[0].words) == (["x", "y"],) * 3


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("marks", r'Thing\.marks is a relationship .* relationship\(lazy="selectin"\)'),
        ("note", r"Thing\.note is not loaded .* without deferred=True"),
    ],
)
async def test_what_is_loaded_when_it_is_touched_is_refused_alike_on_every_store(
    make_store: MakeStore | None, what: str, says: str
) -> None:
    things = service()

    @things.on
    def touch(thing: Thing, event: Happened) -> None:
        thing.count += 1
        getattr(thing, event.what)

    async with run(things, make_store=make_store) as world:
        [error] = await happen(world, things, Happened(thing_id="a", what=what), given=(Thing(thing_id="a"),))
        assert re.search(says, error)


async def test_a_plain_handler_loads_what_it_touches_in_its_thread(make_store: MakeStore | None) -> None:
    things = service()

    @things.on
    def touch(event: Happened, session: Session) -> None:
        thing = session.get_one(Thing, event.thing_id)
        thing.count += len(thing.marks)
        thing.note += "."

    async with run(things, make_store=make_store) as world:
        given = (Thing(thing_id="a", marks=[Mark(), Mark()]),)
        assert await happen(world, things, *[Happened(thing_id="a")] * 2, given=given) == []
        async with world.runtimes["things"].reading() as session:
            assert (await session.execute(select(Thing.count, Thing.note))).one() == (4, "..")


async def test_an_async_step_loads_what_it_touches(make_store: MakeStore | None, batch: int) -> None:
    things = service()

    @things.on
    async def refresh(thing: Thing, event: Happened, step: Step) -> None:
        await step.session.refresh(thing, ["marks", "note"])
        thing.count += len(thing.marks)
        thing.note += "."

    async with run(things, make_store=make_store, engine=config(batch_records_max=batch)) as world:
        given = (Thing(thing_id="a", marks=[Mark(), Mark()]),)
        assert await happen(world, things, *[Happened(thing_id="a")] * 3, given=given) == []
        async with world.runtimes["things"].reading() as session:
            assert (await session.execute(select(Thing.count, Thing.note))).one() == (6, "...")


async def test_related_rows_are_as_the_messages_before_left_them(make_store: MakeStore | None, batch: int) -> None:
    """A part made, moved and taken by steps on other entities shows in the collection and the expression."""
    things = service()
    seen: list[tuple[str, str, int, Any]] = []

    @things.on
    def look(thing: Thing, event: Happened) -> None:
        if event.what == "look":
            seen.append((event.thing_id, event.other_id, len(thing.parts), thing.seen))  # type: ignore[attr-defined]  # see above
        if event.what == "add":
            thing.parts.append(Part(id=f"added-{event.other_id}"))
        if event.what == "drop":
            thing.parts.clear()

    @things.on(id="other_id")
    def part(part: Part | None, event: Parted) -> Part | None:
        if event.what == "make":
            return Part(id=event.other_id, thing_id=event.thing_id)
        if part is not None and event.what == "move":
            part.thing_id = event.thing_id
        return None

    async with run(things, make_store=make_store, partitions=1, engine=config(batch_records_max=batch)) as world:
        steps = [
            ("a", "make", "p"), ("a", "look", "1"), ("b", "look", "1"),
            ("b", "move", "p"), ("a", "look", "2"), ("b", "look", "2"),
            ("a", "add", "q"), ("a", "look", "3"), ("b", "drop", ""), ("b", "look", "3"), ("a", "look", "4"),
        ]  # fmt: skip
        kinds = {"make": Parted, "move": Parted}
        events = [kinds.get(what, Happened)(thing_id=thing, what=what, other_id=other) for thing, what, other in steps]
        assert await happen(world, things, *events, given=(Thing(thing_id="a"), Thing(thing_id="b"))) == []
        assert seen == [
            ("a", "1", 1, 1), ("b", "1", 0, 0), ("a", "2", 0, 0), ("b", "2", 1, 1), ("a", "3", 1, 1), ("b", "3", 0, 0),
            ("a", "4", 1, 1),
        ]  # fmt: skip


async def test_each_handler_of_a_message_finds_what_the_one_before_has_left(
    make_store: MakeStore | None, batch: int
) -> None:
    things = service()
    seen: list[tuple[int, int]] = []

    @things.on
    def count(thing: Thing, event: Happened) -> None:
        thing.count = Thing.count + 1  # the database works it out

    @things.on(id="other_id")
    def part(part: Part | None, event: Happened) -> Part:
        return part or Part(id=event.other_id, thing_id=event.thing_id)

    @things.on
    def look(thing: Thing, event: Happened) -> None:
        seen.append((thing.count, len(thing.parts)))

    async with run(things, make_store=make_store, engine=config(batch_records_max=batch)) as world:
        events = [Happened(thing_id="a", other_id=f"p{number}") for number in range(3)]
        assert await happen(world, things, *events, given=(Thing(thing_id="a"),)) == []
    assert seen == [(1, 1), (2, 2), (3, 3)]


async def test_a_plain_handler_finds_what_entity_steps_of_other_partitions_have_left(
    make_store: MakeStore | None,
) -> None:
    """They share a transaction, and a session; somebody holds on to the entities, so that the session has them."""
    things = service()
    kept: list[Thing] = []
    seen: list[tuple[int, int]] = []

    @things.on
    def touch(thing: Thing, event: Happened) -> None:
        kept.append(thing)

    @things.on(id="other_id")
    def part(part: Part | None, event: Parted) -> Part:
        return part or Part(id=event.other_id, thing_id=event.thing_id)

    @things.on
    async def count(event: Counted, step: Step) -> None:
        thing = await step.session.get_one(Thing, event.thing_id)
        rows = await step.session.scalars(select(func.count(Part.id)).where(Part.thing_id == event.thing_id))
        seen.append((len(thing.parts), rows.one()))

    async with run(things, make_store=make_store, partitions=1) as world:
        for number in range(20):
            events = [
                Happened(thing_id="a"), Parted(thing_id="a", other_id=f"p{number}"), Counted(thing_id="a"),
            ]  # fmt: skip
            assert await happen(world, things, *events, given=() if number else (Thing(thing_id="a"),)) == []
    assert len(seen) == 20
    assert [one for one, _ in seen] == [other for _, other in seen]


class Box(Base):
    """A hierarchy with nothing that only the database knows."""

    __tablename__ = "box"
    id: Mapped[str] = mapped_column(String(50), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "box"}  # noqa: RUF012


class Crate(Box):
    weight: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "crate"}  # noqa: RUF012


async def test_what_a_step_on_the_base_class_makes_a_step_on_the_subclass_finds(
    make_store: MakeStore | None, batch: int
) -> None:
    things = service()
    found: list[int] = []

    @things.on(id="thing_id")
    def make(box: Box | None, event: Happened) -> Box | None:
        return Crate(id=event.thing_id, weight=5) if box is None else None

    @things.on(id="thing_id")
    def use(crate: Crate | None, event: Happened) -> None:
        if crate is not None:
            found.append(crate.weight or 0)

    async with run(things, make_store=make_store, engine=config(batch_records_max=batch)) as world:
        assert await happen(world, things, *[Happened(thing_id="a")] * 3) == []
        assert found == [5, 5, 5]


async def test_an_entity_of_a_subclass_comes_with_its_columns(make_store: MakeStore | None) -> None:
    things = service()

    @things.on(id="thing_id")
    def use(box: Box, event: Happened) -> None:
        assert isinstance(box, Crate)
        box.weight = (box.weight or 0) + 1

    async with run(things, make_store=make_store) as world:
        given = (Crate(id="a", weight=5),)
        assert await happen(world, things, *[Happened(thing_id="a")] * 2, given=given) == []
        async with world.runtimes["things"].reading() as session:
            assert await session.scalar(select(Crate.weight)) == 7


async def test_an_entity_keeps_its_id(make_store: MakeStore | None) -> None:
    things = service()

    @things.on(id="thing_id")
    def rename(part: Part, event: Happened) -> None:
        part.id = "other"

    async with run(things, make_store=make_store) as world:
        [error] = await happen(world, things, Happened(thing_id="a"), given=(Part(id="a"),))
        assert "an entity step has changed id of Part 'a' to 'other'" in error


def test_steps_whose_entities_lead_to_rows_without_a_lock_run_on_a_snapshot() -> None:
    things = service()

    @things.on
    def look(thing: Thing, event: Happened) -> None: ...

    @things.on(id="other_id")
    def part(part: Part, event: Happened) -> None: ...

    plain = service()

    @plain.on(id="other_id")
    def alone(part: Part, event: Happened) -> None: ...

    kind = "t-features.Happened.v1"
    assert [Dispatcher(each, UniqueIds("x"), 1).routes[kind].locked for each in (things, plain)] == [False, True]


class Pair(Base):
    __tablename__ = "pair"
    one: Mapped[int] = mapped_column(primary_key=True)
    two: Mapped[int] = mapped_column(primary_key=True)


def test_what_cannot_be_an_entity_is_refused_at_its_declaration() -> None:
    things = service()
    with pytest.raises(UsageError, match=r"entity Pair has 2 primary key columns.*UniqueConstraint"):

        @things.on(id="thing_id")
        def pair(pair: Pair, event: Happened) -> None: ...

    with pytest.raises(UsageError, match="Filed, which has no table of its own"):

        @things.on(id="thing_id")
        def abstract(filed: Filed, event: Happened) -> None: ...
