"""`TableRepository`: what it takes from the table; SQLAlchemy reads the rows that it writes, and the reverse."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from ensue import Lookup, Service, TableRepository, UsageError


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@dataclasses.dataclass
class Cents:
    """A type that only the user knows."""

    value: int


class InCents(TypeDecorator[Cents]):
    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Cents | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else value.value

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> Cents | None:
        return None if value is None else Cents(value)


class Thousandfold(TypeDecorator[Decimal]):
    """Over a type that drivers do not take as it is."""

    impl = sa.Numeric(20, 0)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else value * 1000

    def process_result_value(self, value: Decimal | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else value / 1000


@dataclasses.dataclass
class Thing:
    id: UUID
    price: Cents
    weight: Decimal
    share: Decimal
    colour: Colour
    letter: Colour
    made: datetime
    day: date
    sold: bool
    owner: UUID | None = None
    note: str | None = None


metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("price", InCents, nullable=False),
    sa.Column("weight", Thousandfold, nullable=False),
    sa.Column("share", sa.Numeric(10, 2), nullable=False),
    sa.Column("colour", sa.Enum(Colour), nullable=False),  # SQLAlchemy keeps the name
    sa.Column("letter", sa.String(1), nullable=False),  # text: the value
    sa.Column("made", sa.DateTime, nullable=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("sold", sa.Boolean, nullable=False),
    sa.Column("owner", sa.Uuid),
    sa.Column("note", sa.Text),
    sa.Column("seen", sa.Integer),  # of somebody else; it may be NULL
)
THINGS = TableRepository(Thing, things)


def thing(**changes: Any) -> Thing:
    first = Thing(
        uuid4(), Cents(5), Decimal("1.5"), Decimal("0.25"), Colour.RED, Colour.BLUE,
        datetime(2024, 1, 2, 3, 4, 5, 678900), date(2024, 1, 2), True,
    )  # fmt: skip
    return dataclasses.replace(first, **changes)


@pytest.mark.filterwarnings("ignore:Dialect sqlite.*does.*not support Decimal")  # the shares here are exact as floats
async def test_sqlalchemy_reads_what_a_repository_writes_and_the_reverse(tmp_path: Path) -> None:
    service = Service("things", database=f"sqlite:///{tmp_path}/t.db", broker="memory://", tables=metadata)
    mine = thing(owner=uuid4(), made=datetime(2024, 1, 2))
    theirs = thing(note="theirs")
    async with service.running(work=False):
        async with service.step() as step:
            await THINGS.save(step.transaction, {}, {mine.id: mine})
            await step.session.execute(things.insert().values(**vars(theirs) | {"letter": "b"}))
        async with service.query() as session:
            found = {row.id: row for row in await session.execute(things.select())}
            for each in (mine, theirs):
                row = {name: getattr(found[each.id], name) for name in vars(each)}
                assert row == vars(each) | {"letter": "b"}
            assert await session.scalar(sa.select(things.c.id).order_by(things.c.made).limit(1)) == mine.id
        async with service.step() as step:
            assert await THINGS.load(step.transaction, [mine.id, theirs.id]) == {mine.id: mine, theirs.id: theirs}


def columns(*names: str, **options: Any) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String(20), **options) for name in names]


@dataclasses.dataclass
class Plain:
    id: str
    owner: str
    sent: str


def table(*more: Any) -> sa.Table:
    return sa.Table(
        "plain", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *columns("owner", "sent"), *more
    )


def test_the_lookups_are_what_keys_and_indexes_can_answer() -> None:
    found = TableRepository(Plain, table(sa.Index("a", "owner", "sent"), sa.UniqueConstraint("sent"))).table.lookups
    assert set(found) == {
        Lookup((), ("id",)),
        Lookup((), ("owner", "sent", "id")), Lookup(("owner",), ("sent", "id")), Lookup(("owner", "sent"), ("id",)),
        Lookup((), ("sent", "id")), Lookup(("sent",), ("id",)),
    }  # fmt: skip


def test_an_index_that_cannot_find_rows_by_their_values_is_no_lookup() -> None:
    odd = table()
    sa.Index("lower", sa.func.lower(odd.c.owner))
    sa.Index("some", odd.c.owner, sqlite_where=odd.c.sent == "x")
    sa.Index("down", odd.c.sent.desc())
    assert TableRepository(Plain, odd).table.lookups == (Lookup((), ("id",)),)


def test_lookups_that_are_given_are_all_there_are_and_give_the_table_its_indexes() -> None:
    given = [Lookup(("owner",), ("sent", "id")), Lookup((), ("sent", "id")), Lookup((), ("id",))]
    one = table(sa.Index("mine", "sent"))
    for _ in range(2):  # saying it twice adds nothing
        assert TableRepository(Plain, one, lookups=given).table.lookups == tuple(given)
        assert {str(each.name): [column.name for column in each.columns] for each in one.indexes} == {
            "mine": ["sent"], "ix_plain_owner_sent_id": ["owner", "sent", "id"],
        }  # fmt: skip


def test_the_name_of_an_index_fits_every_database() -> None:
    long = sa.Table("p" * 40, sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *columns("owner", "sent"))
    TableRepository(Plain, long, lookups=[Lookup(("owner",), ("sent", "id"))])
    TableRepository(Plain, long, lookups=[Lookup(("sent",), ("owner", "id"))])
    names = {str(each.name) for each in long.indexes}
    assert len(names) == 2
    assert max(map(len, names)) <= 63


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("plain", r"wants the sqlalchemy\.Table that describes its rows, got 'plain'"),
        (sa.Table("p", sa.MetaData(), *columns("id", "owner", "sent")), "has 0 columns as its primary key"),
        (sa.Table("p", sa.MetaData(), *columns("id", primary_key=True)), "has no column owner, sent; it has id"),
        (table(*columns("more", nullable=False)), "has no field more, which table plain needs in each row"),
        (sa.Table("p", sa.MetaData(schema="x"), *columns("id", primary_key=True)), "names a schema"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_its_class_is_refused(table: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TableRepository(Plain, table)


def test_a_type_that_nobody_can_store_is_refused_with_the_way_out() -> None:
    @dataclasses.dataclass
    class Odd:
        id: str
        value: complex

    odd = sa.Table("odd", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("value", sa.String))
    with pytest.raises(UsageError, match=r"how to store .*Odd\.value.*TypeDecorator"):
        TableRepository(Odd, odd)


def test_moments_of_a_datetime_column_sort_as_sqlalchemy_writes_them() -> None:
    assert THINGS.value("made", datetime(2024, 1, 2)) == "2024-01-02 00:00:00.000000"


@dataclasses.dataclass
class Zoned:
    id: str
    made: datetime


zoned = TableRepository(
    Zoned,
    sa.Table(
        "zoned",
        sa.MetaData(),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("made", sa.DateTime(timezone=True)),
    ),
)


def test_moments_of_all_zones_are_written_in_one() -> None:
    east = datetime(2024, 1, 2, 1, tzinfo=timezone(timedelta(hours=1)))
    assert zoned.value("made", east) == "2024-01-02 00:00:00.000000+00:00"
    [found] = zoned.by_id([["a", "2024-01-02 00:00:00"]]).values()  # as a database without zones returns it
    assert found.made == east


def test_moments_with_and_without_a_zone_are_not_mixed() -> None:
    with pytest.raises(UsageError, match=r"Zoned\.made is .* with a time zone, e\.g\. datetime\.now\(UTC\)"):
        zoned.value("made", datetime(2024, 1, 2))
    with pytest.raises(UsageError, match=r"Thing\.made is .* or write DateTime\(timezone=True\)"):
        THINGS.value("made", datetime(2024, 1, 2, tzinfo=UTC))


def test_an_entity_that_its_row_cannot_make_again_is_refused() -> None:
    @dataclasses.dataclass
    class Hidden:
        id: str
        secret: dataclasses.InitVar[str]

    with pytest.raises(UsageError, match="secret is an InitVar"):
        TableRepository(Hidden, sa.Table("hidden", sa.MetaData(), *columns("id", primary_key=True)))


@pytest.mark.parametrize("kind", [Decimal, float])
def test_an_id_with_several_texts_is_refused(kind: type) -> None:
    made = dataclasses.make_dataclass("Numbered", [("id", kind)])
    table = sa.Table("numbered", sa.MetaData(), sa.Column("id", sa.Numeric, primary_key=True))
    with pytest.raises(UsageError, match=f"its id id is a {kind.__name__}.*make it an int, a str or a UUID"):
        TableRepository(made, table)


def test_numbers_of_a_numeric_column_keep_the_type_of_their_field() -> None:
    made = dataclasses.make_dataclass("Weighed", [("id", str), ("weight", float), ("pieces", int)])
    table = sa.Table(
        "weighed",
        sa.MetaData(),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("weight", sa.Numeric),
        sa.Column("pieces", sa.Numeric(20, 0)),
    )
    found: Any = TableRepository(made, table).entity(["a", "1.50", "7"])
    assert dataclasses.astuple(found) == ("a", 1.5, 7)
