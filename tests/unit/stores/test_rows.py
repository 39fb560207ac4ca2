"""Queries by entity: what `Rows` makes of a repository's lookups, on two stores; and the same as plain SQL."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Date, Index, MetaData, Numeric, String, Table, Uuid

from ensue import Lookup, Rows, Service, TableRepository, UsageError
from ensue.conformance.store import SERVICE
from ensue.conformance.store_rows import Reading
from ensue.ports import Capabilities, RowReader, Store
from ensue.ports import Table as PlainTable
from ensue.stores.memory import MemoryStore
from ensue.stores.sort_keys import place, sort_key
from ensue.stores.sql_rows import SqlRows
from ensue.stores.sqlite import SqliteStore


@dataclasses.dataclass
class Parcel:
    id: UUID
    sent: date
    price: Decimal
    note: str | None = None


metadata = MetaData()
parcel = Table(
    "parcel",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sent", Date, nullable=False),
    Column("price", Numeric(9, 2), nullable=False),
    Column("note", String(64)),
)
FIELDS = ("sent", "price", "note")
PARCELS = TableRepository(
    Parcel,
    parcel,
    lookups=[Lookup((), ("sent", "id")), Lookup(("note",), ("sent", "id")), Lookup((), ("price", "id"))],
)


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store = SqliteStore(f"sqlite:///{tmp_path}/x.db", SERVICE) if request.param == "sqlite" else MemoryStore("x")
    await store.open()
    try:
        if store.capabilities.sessions:
            await store.create_tables(metadata)
        yield store
    finally:
        await store.close()


async def test_entities_come_back_with_their_own_types(store: Store) -> None:
    parcels = {
        each.id: each
        for each in (Parcel(uuid4(), date(2024, 1, 1 + n), Decimal(n) / 4, "x" if n % 2 else None) for n in range(6))
    }
    async with store.transaction() as transaction:
        await PARCELS.save(transaction, {}, parcels)
    rows = Rows(store.rows(), {Parcel: PARCELS})
    inserted = list(parcels.values())
    assert await rows.get(Parcel, inserted[2].id) == inserted[2]
    assert await rows.get(Parcel, uuid4()) is None
    assert await rows.get_many(Parcel, list(parcels)) == parcels
    assert await rows.find(Parcel, order=("sent", "id"), since=date(2024, 1, 4)) == inserted[3:]
    assert await rows.find(Parcel, by={"note": None}) == inserted[::2]
    assert await rows.find(Parcel, by={"note": "x"}, after=inserted[1], limit=1) == [inserted[3]]
    assert await rows.find(Parcel, order=("sent", "id"), after=(date(2024, 1, 3), inserted[2].id)) == inserted[3:]
    assert await rows.find(Parcel, order=("price", "id"), limit=3) == inserted[:3]
    assert (await rows.count(Parcel), await rows.count(Parcel, by={"note": "x"})) == (6, 3)


async def test_what_no_index_can_answer_is_refused_with_the_index_to_add(store: Store) -> None:
    rows = Rows(store.rows(), {Parcel: PARCELS})
    with pytest.raises(UsageError, match=r"add Lookup\(\('price',\), \(\.\.\., 'id'\)\) to the lookups="):
        await rows.find(Parcel, by={"price": Decimal(1)})
    with pytest.raises(UsageError, match="expected a Parcel or a tuple of its sent, id"):
        await rows.find(Parcel, order=("sent", "id"), after=(1,))
    with pytest.raises(UsageError, match="since has 3 values"):
        await rows.find(Parcel, order=("sent", "id"), since=(1, 2, 3))
    several = r"in several orders: say which, order=\('sent', 'id'\) or order=\('price', 'id'\)"
    with pytest.raises(UsageError, match=several):
        await rows.find(Parcel)
    with pytest.raises(UsageError, match="limit is 0"):
        await rows.find(Parcel, limit=0)
    with pytest.raises(UsageError, match="Service is not stored by a TableRepository"):
        await rows.get(Service, 1)


def test_an_index_must_fit_its_class() -> None:
    with pytest.raises(UsageError, match="has no field when"):
        TableRepository(Parcel, parcel, lookups=[Lookup((), ("when", "id"))])
    with pytest.raises(UsageError, match="must end with the id"):
        TableRepository(Parcel, parcel, lookups=[Lookup((), ("id", "sent"))])


def test_decimals_in_a_column_of_text_have_no_order() -> None:
    text = Table(
        "text", MetaData(), Column("id", Uuid, primary_key=True), *(Column(each, String(20)) for each in FIELDS)
    )
    with pytest.raises(UsageError, match=r"price is a Decimal in a column of text.*the type Numeric"):
        TableRepository(Parcel, text, lookups=[Lookup((), ("price", "id"))])
    Index("of_price", text.c.price)
    found = TableRepository(Parcel, text).table.lookups
    assert found == (Lookup((), ("id",)), Lookup(("price",), ("id",)))


async def test_a_service_hands_out_rows(tmp_path: Path) -> None:
    parcels = Service(
        "parcels", database=f"sqlite:///{tmp_path}/p.db", broker="memory://", tables=metadata, repositories=[PARCELS]
    )
    one = Parcel(uuid4(), date(2024, 1, 1), Decimal(3))
    async with parcels.running(work=False):
        async with parcels.step() as step:
            await PARCELS.save(step.transaction, {}, {one.id: one})
        async with parcels.rows() as rows:
            assert await rows.find(Parcel, order=("sent", "id")) == [one]


class _ByText(SqliteStore):
    """Answers through the SQLAlchemy session of `reading()`, as other SQL stores do."""

    def rows(self) -> RowReader:  # type: ignore[override]  # another way to the same
        return SqlRows(self.reading)


class TestSqlRows(Reading):
    capabilities = Capabilities()

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/orders.db"

    async def make_store(self) -> Store:
        return _ByText(self.url, SERVICE)


async def test_a_query_by_an_index_reads_no_whole_table(tmp_path: Path) -> None:
    import sqlite3

    from ensue.stores import sql_rows
    from ensue.stores.sqlite.rows import quoted

    table = PARCELS.table
    with sqlite3.connect(tmp_path / "plan.db") as connection:
        connection.execute("CREATE TABLE parcel (id PRIMARY KEY, sent, price, note)")
        connection.execute("CREATE INDEX of_note ON parcel (note, sent, id)")
        for statement in (
            sql_rows.find_statement(table, table.lookups[1], ["x"], ["1"], [], 9, quoted),
            sql_rows.find_statement(table, table.lookups[1], ["x"], [], ["1", "a"], 9, quoted),
            sql_rows.count_statement(table, table.lookups[1], ["x"], quoted),
        ):
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement[0]}", statement[1]))
            assert plan.startswith("SEARCH"), plan
            assert "of_note (note=?" in plan
            assert "TEMP B-TREE" not in plan
            assert "sent>?" in plan or "count" in statement[0], plan
    connection.close()


_VALUES = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary())


def _key(value: object) -> tuple[int, object]:
    if value is None:
        return 0, 0
    return (1, value) if isinstance(value, int | float) else (2, value) if isinstance(value, str) else (3, value)


@given(st.lists(st.tuples(_VALUES, _VALUES), min_size=2, max_size=6))
def test_places_sort_as_their_values_do(values: list[tuple[object, object]]) -> None:
    by_value = sorted(values, key=lambda pair: (_key(pair[0]), _key(pair[1])))
    assert sorted(map(sort_key, values)) == [sort_key(pair) for pair in by_value]


def test_whole_numbers_near_the_edge_of_a_float_keep_their_order() -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    numbers = [chance.choice((2**53, -(2**53), 2**62, 0)) + chance.randrange(-2000, 2000) for _ in range(500)]
    assert sorted(numbers, key=lambda number: sort_key([number])) == sorted(numbers), f"seed {seed}"


def test_what_has_no_place_is_refused() -> None:
    for value in (2**63, float("nan"), Decimal(1)):
        with pytest.raises(UsageError, match="no place in a lookup"):
            sort_key([value])


_DECIMALS = PlainTable("x", ("id", "price"), "id", placed=("price",))


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False), min_size=2, max_size=6))
def test_decimals_sort_by_their_value(values: list[Decimal]) -> None:
    places = [place(_DECIMALS, ("price", "id"), (str(each), 1)) for each in sorted(values)]
    assert places == sorted(places)
    assert len(set(places)) == len(set(values))


def test_what_is_no_finite_number_has_no_place_among_decimals() -> None:
    for text in ("many", "NaN", "Infinity"):
        with pytest.raises(UsageError, match=r"no place in a lookup: expected a (finite|decimal) number"):
            place(_DECIMALS, ("price",), (text,))
