"""Tables of mapped entities as they are elsewhere: in a schema, in a hierarchy, declared one after another."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from sqlalchemy import ForeignKey, MetaData, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from tests.unit.stores.conftest import MakeStore

from ensue import Event, Retry, Service
from ensue.ports import Store
from ensue.stores.mariadb.store import MariaDbStore
from ensue.stores.postgres.store import PostgresStore
from ensue.testing import given, run


class Ticked(Event, topic="t-tables", key="clock_id"):
    clock_id: str


def declared(schema: str | None) -> Any:
    """A hierarchy of two tables, with collections that are joined."""

    class Base(DeclarativeBase):
        metadata = MetaData(schema=schema)

    class Maker(Base):
        __tablename__ = "maker"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Clock(Base):
        __tablename__ = "clock"
        clock_id: Mapped[str] = mapped_column("id", String(40), primary_key=True)
        kind: Mapped[str] = mapped_column(String(9))
        ticks: Mapped[int] = mapped_column(default=0)
        maker_id: Mapped[int | None] = mapped_column(ForeignKey(Maker.id))
        maker: Mapped[Any] = relationship(Maker, lazy="joined")
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "clock"}  # noqa: RUF012  # as SQLAlchemy wants it

    class Cuckoo(Clock):
        __tablename__ = "cuckoo"
        id: Mapped[str] = mapped_column(ForeignKey(Clock.clock_id), primary_key=True)
        calls: Mapped[int] = mapped_column(default=0)
        __mapper_args__ = {"polymorphic_identity": "cuckoo"}  # noqa: RUF012

    return Base, Clock, Cuckoo, Maker


@pytest.mark.parametrize("schema", [None, "of_their_own"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
async def test_a_hierarchy_of_tables_is_stepped_by_each_of_its_classes(
    request: pytest.FixtureRequest, kind: str, schema: str | None
) -> None:
    database = f"tables_{secrets.token_hex(4)}"
    make: MakeStore | None = None
    if kind == "sqlite" and schema is not None:
        pytest.skip("a file has no schemas")
    if kind == "postgres":
        postgres = request.getfixturevalue("postgres_server")
        postgres.psql("postgres", f"CREATE DATABASE {database}")
        if schema is not None:
            postgres.psql(database, f"CREATE SCHEMA {schema}")

        def make(service: str) -> Store:
            return PostgresStore(postgres.url(database), service)
    elif kind == "mariadb":
        mariadb = request.getfixturevalue("mariadb_server")
        mariadb.sql(f"CREATE DATABASE {database}")
        if schema is not None:
            schema = f"{database}_2"
            mariadb.sql(f"CREATE DATABASE {schema}")

        def make(service: str) -> Store:
            return MariaDbStore(mariadb.url(database), service)

    base, clock_class, cuckoo_class, maker_class = declared(schema)
    clocks = Service("clocks", tables=base.metadata, publishes=[Ticked], retry=Retry(attempts_max=1))
    seen: list[Any] = []

    @clocks.on(entity=clock_class)
    def tick(clock: Any, event: Ticked) -> None:
        clock.ticks += 1
        if isinstance(clock, cuckoo_class):
            clock.calls += 1
        seen.append((type(clock).__name__, clock.maker and clock.maker.id))

    @clocks.on(entity=cuckoo_class, name="call")
    def call(cuckoo: Any, event: Ticked) -> None:
        cuckoo.calls += 10

    async with run(clocks, make_store=make) as world:
        runtime = world.runtimes["clocks"]
        async with runtime.step() as step:
            step.session.add(cuckoo_class(clock_id="a", maker=maker_class(id=7)))
            await step.session.flush()
            for _ in range(3):
                step.publish(Ticked(clock_id="a"))
        await world.settle()
        assert [letter.error for letter in await world.dead_letters(clocks)] == []
        assert seen[-3:] == [("Cuckoo", 7)] * 3
        async with runtime.reading() as session:
            assert (await session.execute(select(cuckoo_class.ticks, cuckoo_class.calls))).one() == (3, 33)


async def test_a_handler_may_be_declared_before_the_classes_that_its_entity_leads_to() -> None:
    class Base(DeclarativeBase):
        pass

    class Album(Base):
        __tablename__ = "album"
        id: Mapped[str] = mapped_column(primary_key=True)
        songs: Mapped[list[Song]] = relationship("Song", lazy="selectin")
        length: Mapped[int] = mapped_column(default=0)

    albums = Service("albums", tables=Base.metadata)

    @albums.on(id="clock_id")
    def count(album: Album, event: Ticked) -> None:
        album.length = len(album.songs)

    class Song(Base):
        __tablename__ = "song"
        id: Mapped[int] = mapped_column(primary_key=True)
        album_id: Mapped[str] = mapped_column(ForeignKey("album.id"))

    result = await given(albums, Album(id="a", songs=[Song(), Song()])).when(Ticked(clock_id="a"))
    assert result.error is None
    assert result.entity(Album, "a").length == 2


def test_tables_of_one_name_in_two_schemas_are_two() -> None:
    class Base(DeclarativeBase):
        pass

    class Here(Base):
        __tablename__ = "twin"
        clock_id: Mapped[str] = mapped_column(primary_key=True)

    class There(Base):
        __tablename__ = "twin"
        __table_args__ = {"schema": "there"}  # noqa: RUF012  # as SQLAlchemy wants it
        clock_id: Mapped[str] = mapped_column(primary_key=True)

    twins = Service("twins")

    @twins.on
    def here(twin: Here, event: Ticked) -> None: ...

    @twins.on
    def there(twin: There, event: Ticked) -> None: ...

    assert len(twins.repositories) == 2
