"""The id in an event is not of the key's own type: what stands for it for certain finds the entity, on every store."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NewType
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator
from tests.unit.stores.conftest import MakeStore

from ensue import Event, Retry, Rows, Service, TableRepository, UsageError
from ensue.kinds import change_of, class_of, same
from ensue.ports import Store
from ensue.stores.sqlite import SqliteStore
from ensue.testing import World, run


class Size(enum.Enum):
    BIG = "b"
    SMALL = "s"


class AsText(Event, topic="t-ids", key="parcel"):
    parcel: str


class AsUuid(Event, topic="t-ids", key="parcel"):
    parcel: UUID


class AsSize(Event, topic="t-ids", key="size"):
    size: Size


class AsBytes(Event, topic="t-ids", key="raw"):
    raw: bytes


@dataclasses.dataclass
class Parcel:
    id: UUID
    seen: int = 0


@dataclasses.dataclass
class Named:
    id: str
    seen: int = 0


@dataclasses.dataclass
class Sized:
    size: Size
    seen: int = 0


@dataclasses.dataclass
class Raw:
    raw: bytes
    seen: int = 0


metadata = sa.MetaData()


def table(name: str, key: str, kind: Any) -> sa.Table:
    return sa.Table(
        name, metadata, sa.Column(key, kind, primary_key=True), sa.Column("seen", sa.Integer, nullable=False)
    )


PARCELS = TableRepository(Parcel, table("ids_parcel", "id", sa.Uuid))
NAMED = TableRepository(Named, table("ids_named", "id", sa.String(50)))
SIZED = TableRepository(Sized, table("ids_sized", "size", sa.Enum(Size)))
RAW = TableRepository(Raw, table("ids_raw", "raw", sa.LargeBinary(20).with_variant(sa.VARBINARY(20), "mariadb")))


def with_sender(make: MakeStore, directory: Path) -> Callable[[str], Store]:
    """The service under test on its store; the one that publishes on SQLite, for a store may have no outbox."""
    return lambda name: make(name) if name == "parcels" else SqliteStore(f"sqlite:///{directory}/{name}.db", name)


async def send(world: World, *events: Event) -> None:
    for event in events:  # a step each: so many documents change in one at most
        async with world.runtimes["sender"].step() as step:
            step.publish(event)
    await world.settle()


async def test_an_id_finds_its_entity_whatever_stands_for_it(make_any_store: MakeStore, tmp_path: Path) -> None:
    parcels = Service(
        "parcels", publishes=[], tables=metadata, repositories=[PARCELS, NAMED, SIZED, RAW], retry=Retry(attempts_max=1)
    )
    sender = Service("sender")

    @parcels.on(id="parcel")
    def see(parcel: Parcel | None, event: AsText) -> Parcel:
        parcel = parcel or Parcel(UUID(event.parcel))
        parcel.seen += 1
        return parcel

    @parcels.on(id="parcel")
    def name(named: Named | None, event: AsUuid) -> Named:
        named = named or Named(str(event.parcel))
        named.seen += 1
        return named

    @parcels.on
    def size(sized: Sized | None, event: AsSize) -> Sized:
        sized = sized or Sized(event.size)
        sized.seen += 1
        return sized

    @parcels.on
    def raw(raw: Raw | None, event: AsBytes) -> Raw:
        raw = raw or Raw(event.raw)
        raw.seen += 1
        return raw

    key = uuid4()
    async with run(parcels, sender, make_store=with_sender(make_any_store, tmp_path)) as world:
        await send(
            world, AsText(parcel=str(key)), AsText(parcel=str(key).upper()), AsUuid(parcel=key), AsUuid(parcel=key),
            AsSize(size=Size.BIG), AsSize(size=Size.BIG), AsBytes(raw=b"\0\xff"), AsBytes(raw=b"\0\xff"),
        )  # fmt: skip
        assert [letter.error for letter in await world.dead_letters(parcels)] == []
        rows = Rows(world.runtimes["parcels"].store.rows(), parcels.repositories)
        assert await rows.get(Parcel, str(key)) == Parcel(key, 2)
        assert await rows.get(Named, key) == Named(str(key), 2)
        assert await rows.get(Sized, "b") == Sized(Size.BIG, 2)
        assert await rows.get(Raw, b"\0\xff") == Raw(b"\0\xff", 2)
        await send(world, AsText(parcel="no uuid"))
        [letter] = await world.dead_letters(parcels)
        assert letter.error_type.endswith("BadMessage")
        assert "parcel is 'no uuid', which cannot be the id of a Parcel" in letter.error


class Guid(TypeDecorator[UUID]):
    """As people had it before SQLAlchemy 2."""

    impl = sa.CHAR(32)
    cache_ok = True

    def process_bind_param(self, value: UUID | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.hex

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> UUID | None:
        return None if value is None else UUID(value)


ParcelId = NewType("ParcelId", UUID)
SameId = NewType("SameId", ParcelId)


class Base(DeclarativeBase):
    pass


class Mapped1(Base):
    __tablename__ = "mapped_uuid"
    id: Mapped[SameId] = mapped_column(sa.Uuid, primary_key=True)
    seen: Mapped[int] = mapped_column(default=0)


class Mapped2(Base):
    __tablename__ = "mapped_guid"
    id: Mapped[Annotated[UUID, "a key"]] = mapped_column(Guid, primary_key=True)
    seen: Mapped[int] = mapped_column(default=0)


class Mapped3(Base):
    __tablename__ = "mapped_enum"
    id: Mapped[Size] = mapped_column(primary_key=True)
    seen: Mapped[int] = mapped_column(default=0)


class OfSize(Event, topic="t-ids", key="size"):
    size: str


async def test_a_mapped_entity_is_found_alike(make_store: MakeStore | None) -> None:
    parcels = Service("parcels", tables=Base.metadata, publishes=[AsText, OfSize], retry=Retry(attempts_max=1))

    @parcels.on(id="parcel")
    def one(parcel: Mapped1 | None, event: AsText) -> Mapped1:
        parcel = parcel or Mapped1(id=UUID(event.parcel), seen=0)
        parcel.seen += 1
        return parcel

    @parcels.on(id="parcel")
    def two(parcel: Mapped2 | None, event: AsText) -> Mapped2:
        parcel = parcel or Mapped2(id=UUID(event.parcel), seen=0)
        parcel.seen += 1
        return parcel

    @parcels.on(id="size")
    def three(sized: Mapped3 | None, event: OfSize) -> Mapped3:
        sized = sized or Mapped3(id=Size(event.size), seen=0)
        sized.seen += 1
        return sized

    async with run(parcels, make_store=make_store) as world:
        runtime = world.runtimes["parcels"]
        key = str(uuid4())
        async with runtime.step() as step:
            for _ in range(2):
                step.publish(AsText(parcel=key))
                step.publish(OfSize(size="b"))
        await world.settle()
        assert [letter.error for letter in await world.dead_letters(parcels)] == []
        async with runtime.reading() as session:
            for cls in (Mapped1, Mapped2, Mapped3):
                assert await session.scalar(sa.select(cls.seen)) == 2


def test_what_is_certain_is_changed_and_nothing_else() -> None:
    class Kind(str, enum.Enum):  # noqa: UP042  # as before Python 3.11
        ONE = "1"

    key = uuid4()
    certain: list[tuple[Any, type]] = [(str(key), UUID), (key, str), ("b", Size), (Size.BIG, str), (Kind.ONE, str)]
    for value, want in certain:
        change, back = change_of(type(value), want), change_of(want, type(value))
        assert change is not None
        assert back is not None
        assert type(change(value)) is want
        assert back(change(value)) == value
    uncertain = [
        (str, int), (int, str), (UUID, int), (bytes, UUID), (UUID, bytes), (bytes, str), (Decimal, str), (int, Decimal),
        (float, int), (bool, int), (int, bool), (datetime, date), (date, datetime), (int, Size), (Kind, Size),
    ]  # fmt: skip
    assert {pair for pair in uncertain if change_of(*pair) is not None} == set()
    assert {change_of(each, each) for each in (str, int, UUID, Size)} == {same}
    assert [class_of(each) for each in (SameId, SameId | None, Annotated[SameId, 1])] == [UUID] * 3
    assert [class_of(each) for each in (int | str, Any, None, list[int])] == [None] * 4


def test_an_id_that_may_be_several_is_refused_at_its_declaration() -> None:
    parcels = Service("parcels", repositories=[TableRepository(Named, NAMED.source)])

    class Counted(Event, topic="t-ids", key="parcel"):
        parcel: int

    with pytest.raises(UsageError, match=r"Counted\.parcel is int, and the id of Named is str.*\(parcel: str\)"):

        @parcels.on(id="parcel")
        def count(named: Named, event: Counted) -> None: ...


@pytest.mark.parametrize("other", ["a", "A "])
async def test_an_id_that_the_database_takes_for_another_is_no_other_entity(mariadb_server: Any, other: str) -> None:
    mariadb_server.drop("taken")
    service = Service("parcels", tables=metadata, repositories=[NAMED], retry=Retry(attempts_max=1))

    @service.on(id="parcel")
    def see(named: Named | None, event: AsText) -> Named:
        named = named or Named(event.parcel)
        named.seen += 1
        return named

    from ensue.adapters import make_store

    async with run(service, make_store=lambda name: make_store(mariadb_server.url("taken"), name)) as world:
        for text in ("A", other):
            async with world.runtimes["parcels"].step() as step:
                step.publish(AsText(parcel=text))
            await world.settle()
        [letter] = await world.dead_letters(service)
        assert "a row was found whose id is 'A', which was not asked for" in letter.error


async def test_a_start_tells_of_ids_that_the_database_holds_equal(
    sql_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Base(DeclarativeBase):
        pass

    class Alike(Base):
        __tablename__ = "alike"
        id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)

    class Sized(Base):
        __tablename__ = "sized"
        id: Mapped[Size] = mapped_column(primary_key=True)

    def compared(collation: str) -> sa.String:
        return sa.String(40).with_variant(sa.String(40, collation=collation), "mysql", "mariadb")

    class Padded(Base):
        __tablename__ = "padded"
        id: Mapped[str] = mapped_column(compared("utf8mb4_bin"), primary_key=True)

    class Apart(Base):
        __tablename__ = "apart"
        id: Mapped[str] = mapped_column(compared("utf8mb4_nopad_bin"), primary_key=True)

    service = Service("parcels", tables=Base.metadata, publishes=[])

    @service.on(id="parcel")
    def see(alike: Alike | None, event: AsText) -> None: ...

    @service.on(id="size")
    def measure(sized: Sized | None, event: AsSize) -> None: ...

    @service.on(id="parcel")
    def pad(padded: Padded | None, event: AsText) -> None: ...

    @service.on(id="parcel")
    def look(apart: Apart | None, event: AsText) -> None: ...

    from ensue.adapters import make_store

    async with run(service, make_store=lambda name: make_store(sql_database, name)):
        [told] = [each for each in caplog.messages if "for one id" in each] or [""]
    if sql_database.startswith("mariadb"):
        assert "alike.id ('A' and 'a', '\u00e9' and 'e', 'x' and 'x '), padded.id ('x' and 'x '): where" in told
    else:
        assert not told
    assert "apart" not in caplog.text
