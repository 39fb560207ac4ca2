"""Pages of any size, put together, are all rows in order: on every store, against a list that Python sorts."""

from __future__ import annotations

import dataclasses
import enum
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from tests.unit.stores.conftest import MakeStore

from ensue import Lookup, Rows, TableRepository, UsageError
from ensue.ports import Store


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@dataclasses.dataclass(kw_only=True, frozen=True)
class Parcel:
    id: int
    colour: Colour
    moment: datetime | None
    local: datetime | None
    day: date | None
    price: Decimal | None
    share: float | None
    size: int | None
    name: str | None
    raw: bytes | None
    sold: bool | None
    shown: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", "new")


metadata = sa.MetaData()
parcels = sa.Table(
    "odd%s :a `%\" 'name'",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("colour", sa.Enum(Colour), nullable=False),
    sa.Column("moment", sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mariadb")),
    sa.Column("local", sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mariadb")),
    sa.Column("day", sa.Date),
    sa.Column("price", sa.Numeric(12, 4)),
    sa.Column("share", sa.Double),
    sa.Column("size", sa.BigInteger),
    sa.Column("name", sa.String(20)),
    sa.Column("raw", sa.LargeBinary(20).with_variant(mysql.VARBINARY(20), "mariadb")),
    sa.Column("sold", sa.Boolean),
    sa.Column("shown", sa.String(20), nullable=False),
)
ORDERS = [
    *((name, "id") for name in ("moment", "local", "day", "price", "share", "size", "name", "raw", "sold")),
    ("size", "name", "id"),
    ("price", "moment", "id"),
    ("id",),
]
LOOKUPS = [*(Lookup((), order) for order in ORDERS), Lookup(("colour",), ("price", "id")), Lookup(("day",), ("id",))]
PARCELS = TableRepository(Parcel, parcels, lookups=LOOKUPS)
#: The server of the tests makes statements of its own of a collection's name, without quotes.
TAME = TableRepository(Parcel, parcels.to_metadata(sa.MetaData(), name="parcels"), lookups=LOOKUPS)


def maybe(random: Random, value: Any) -> Any:
    return None if random.random() < 0.25 else value


def parcel(number: int, random: Random) -> Parcel:
    begin = datetime(2024, 1, 31, 22)
    later = timedelta(minutes=random.randrange(0, 600, 30), microseconds=random.randrange(2))
    zone = timezone(timedelta(hours=random.randrange(-11, 12)))
    found = Parcel(
        id=random.randrange(2**40) * 100 + number,
        colour=random.choice(list(Colour)),
        moment=maybe(random, (begin + later).replace(tzinfo=timezone.utc).astimezone(zone)),  # noqa: UP017  # as others
        local=maybe(random, begin + later),
        day=maybe(random, date(2024, 1, 31) + timedelta(random.randrange(4))),
        price=maybe(random, Decimal(random.choice(("9.5", "10", "10.0000", "-3.25", "1E+2", "0", "-30", "0.0001")))),
        share=maybe(random, random.choice((-1.5, 0.0, 9.0, 10.0, 1e10, 0.1))),
        size=maybe(random, random.choice((-(2**40), -1, 0, 9, 10, 2**31, 2**40))),
        name=maybe(random, "".join(random.choices("abc", k=random.randrange(1, 4)))),
        raw=maybe(random, bytes(random.choices(range(256), k=random.randrange(1, 4)))),
        sold=maybe(random, random.random() < 0.5),
    )
    object.__setattr__(found, "shown", f"{number}")
    return found


@pytest.fixture
async def store(make_any_store: MakeStore) -> AsyncIterator[Store]:
    store = make_any_store("paging")
    await store.open()
    try:
        if store.capabilities.sessions:
            await store.create_tables(metadata)
        yield store
    finally:
        await store.close()


async def save(repository: TableRepository[Parcel], store: Store, found: Sequence[Parcel]) -> None:
    size = len(found) if store.capabilities.transactions else 1  # each a document of its own
    for begin in range(0, len(found), size):
        async with store.transaction() as transaction:
            await repository.save(transaction, {}, {each.id: each for each in found[begin : begin + size]})


def place(each: Parcel, order: Sequence[str]) -> list[Any]:
    values = [getattr(each, name) for name in order]
    return [(value is not None, value) if value is not None else (False,) for value in values]


async def pages(rows: Rows, random: Random, **query: Any) -> list[Parcel]:
    found: list[Parcel] = []
    after: Any = None
    while page := await rows.find(Parcel, after=after, limit=random.randrange(1, 9), **query):
        found += page
        after = random.choice((page[-1], tuple(getattr(page[-1], name) for name in query["order"])))
    return found


async def test_pages_of_any_size_are_all_rows_in_order(store: Store) -> None:
    seed = secrets.randbelow(10**6)
    random = Random(seed)
    inserted = [parcel(number, random) for number in range(40)]
    repository = PARCELS if store.capabilities.transactions else TAME
    await save(repository, store, inserted)
    rows = Rows(store.rows(), {Parcel: repository})
    for order in ORDERS:
        expected = sorted(inserted, key=lambda each: place(each, order))  # used at once
        assert await pages(rows, random, order=order) == expected, f"by {order}, seed {seed}"
        begin = random.choice(inserted)
        since = tuple(getattr(begin, name) for name in order[: random.randrange(1, len(order) + 1)])
        rest = [each for each in expected if place(each, order)[: len(since)] >= place(begin, order)[: len(since)]]
        assert await pages(rows, random, order=order, since=since) == rest, f"by {order} since {since}, seed {seed}"
    for name, order in (("colour", ("price", "id")), ("day", ("id",))):
        for value in {getattr(each, name) for each in inserted}:
            expected = [each for each in inserted if getattr(each, name) == value]
            expected.sort(key=lambda each: place(each, order))
            by = {name: value}
            assert await pages(rows, random, order=order, by=by) == expected, f"{by}, seed {seed}"
            assert await rows.count(Parcel, by=by) == len(expected)
    assert await rows.get_many(Parcel, [each.id for each in inserted]) == {each.id: each for each in inserted}
    async with store.transaction() as transaction:
        loaded = await repository.load(transaction, [inserted[0].id, inserted[1].id, 7])
        assert loaded == {each.id: each for each in inserted[:2]}


@dataclasses.dataclass
class Keyed:
    id: UUID
    name: str
    colour: Colour
    price: Decimal


keyed = sa.Table(
    "keyed",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(40), nullable=False),
    sa.Column("colour", sa.String(5), nullable=False),
    sa.Column("price", sa.Numeric(9, 2), nullable=False),
)
KEYED = TableRepository(
    Keyed, keyed, lookups=[Lookup((name,), ("id",)) for name in ("name", "colour", "price")] + [Lookup((), ("id",))]
)


async def test_values_that_stand_for_one_of_the_fields_type_are_taken_and_others_refused(store: Store) -> None:
    rows = Rows(store.rows(), {Keyed: KEYED})
    one = Keyed(uuid4(), str(uuid4()), Colour.RED, Decimal("2.50"))
    async with store.transaction() as transaction:
        await KEYED.save(transaction, {}, {one.id: one})
    assert await rows.get(Keyed, str(one.id)) == one
    assert await rows.get_many(Keyed, [one.id.hex]) == {one.id: one}
    assert await rows.find(Keyed, by={"name": UUID(one.name)}) == [one]
    assert await rows.find(Keyed, by={"colour": "r"}) == [one]
    assert await rows.find(Keyed, by={"price": Decimal("2.5")}) == [one]
    assert await rows.find(Keyed, by={"price": 2}) == []
    for refused, says in (
        (rows.get(Keyed, 7), r"Keyed\.id is 7, a int; expected a UUID"),
        (rows.get(Keyed, "seven"), r"Keyed\.id is 'seven', which is no UUID"),
        (rows.find(Keyed, by={"colour": "green"}), r"Keyed\.colour is 'green', which is no Colour"),
        (rows.find(Keyed, by={"price": "2.5"}), r"Keyed\.price is '2.5', a str; expected a Decimal"),
        (rows.find(Keyed, after=(b"x",)), r"Keyed\.id is b'x', a bytes; expected a UUID"),
    ):
        with pytest.raises(UsageError, match=says):
            await refused
