"""Rows whose columns have richer types than plain values: each SQL store takes and gives the plain ones."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from servers import MariaDbServer, PostgresServer
from sqlalchemy import Column, DateTime, MetaData, Numeric, String, Table, Uuid

from ensue.adapters import make_store
from ensue.ports import Lookup
from ensue.ports import Table as Rows

metadata = MetaData()
parcels = Table(
    "rich_parcels",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner", Uuid, nullable=False),
    Column("weight", Numeric(10, 3), nullable=False),
    Column("sent", DateTime(timezone=True), nullable=False),
    Column("note", String(20)),
)
BY_OWNER = Lookup(("owner",), ("sent", "id"))
PARCELS = Rows("rich_parcels", ("id", "owner", "weight", "sent", "note"), "id", (BY_OWNER,))
amounts = Table("rich_amounts", metadata, Column("id", Uuid, primary_key=True), Column("amount", Numeric(30, 1)))
BY_AMOUNT = Lookup((), ("amount", "id"))
AMOUNTS = Rows("rich_amounts", ("id", "amount"), "id", (BY_AMOUNT,))
prices = Table("rich_prices", metadata, Column("id", String(9), primary_key=True), Column("price", Numeric(10, 2)))
BY_PRICE = Lookup(("price",), ("id",))
PRICES = Rows("rich_prices", ("id", "price"), "id", (BY_PRICE,))
OWNER = uuid.UUID(int=7).hex


def row(number: int, note: str | None = None) -> tuple[Any, ...]:
    return uuid.UUID(int=number).hex, OWNER, "1.500", f"2024-01-0{number}T10:00:00+00:00", note


@pytest.fixture(params=["asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> str:
    name = f"rich_{request.param}"
    postgres_server.drop(name)
    return postgres_server.url(name, f"postgresql+{request.param}")


async def test_plain_values_go_in_and_come_out_on_postgresql(url: str) -> None:
    store = make_store(url, "orders")
    await store.open()
    try:
        await store.create_tables(metadata)
        async with store.transaction() as transaction:
            await transaction.insert_rows(PARCELS, [row(1), row(2, "late"), row(3)])
        async with store.transaction() as transaction:
            assert [list(each) for each in await transaction.load_rows(PARCELS, [row(2)[0]])] == [list(row(2, "late"))]
        rows = store.rows()
        assert {tuple(each) for each in await rows.get(PARCELS, [row(1)[0], row(3)[0]])} == {row(1), row(3)}
        first = await rows.find(PARCELS, BY_OWNER, [OWNER], limit=2)
        assert [tuple(each) for each in first] == [row(1), row(2, "late")]
        rest = await rows.find(PARCELS, BY_OWNER, [OWNER], after=[first[-1][3], first[-1][0]], limit=2)
        assert [tuple(each) for each in rest] == [row(3)]
        since = await rows.find(PARCELS, BY_OWNER, [OWNER], since=[row(2)[3]], limit=9)
        assert [each[0] for each in since] == [row(2)[0], row(3)[0]]
        assert await rows.count(PARCELS, BY_OWNER, [OWNER]) == 3
    finally:
        await store.close()


async def test_what_mariadb_has_types_of_its_own_for_is_found_by_plain_values(mariadb_server: MariaDbServer) -> None:
    """Moments are kept without a zone there."""
    mariadb_server.drop("rich")
    store = make_store(mariadb_server.url("rich"), "orders")
    await store.open()
    try:
        await store.create_tables(metadata)
        values = [
            (key, owner, weight, f"2024-01-0{at} 10:00:00", note)
            for at, (key, owner, weight, _, note) in enumerate(map(row, (1, 2)), 1)
        ]
        async with store.transaction() as transaction:
            await transaction.insert_rows(PARCELS, values)
        [found] = await store.rows().get(PARCELS, [row(1)[0]])
        assert found == [*row(1)[:3], "2024-01-01T10:00:00", None]
        since = await store.rows().find(PARCELS, BY_OWNER, [OWNER], since=[row(2)[3]], limit=9)
        assert [each[0] for each in since] == [row(2)[0]]
        exact = [(row(at)[0], f"12345678901234567890.{at}") for at in range(1, 4)]
        async with store.transaction() as transaction:
            await transaction.insert_rows(AMOUNTS, exact)
        found = await store.rows().find(AMOUNTS, BY_AMOUNT, [], after=[exact[1][1], exact[1][0]], limit=9)
        assert [tuple(each) for each in found] == exact[2:], "as floats they would be equal"
        assert await store.rows().count(PARCELS, BY_OWNER, [OWNER]) == 2
    finally:
        await store.close()


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb"])
async def test_a_float_finds_the_number_that_it_is_written_as(
    scheme: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/prices.db"
    if scheme != "sqlite":
        server = request.getfixturevalue("mariadb_server" if scheme == "mariadb" else "postgres_server")
        server.drop("rich_prices")
        url = server.url("rich_prices", scheme)
    store = make_store(url, "orders")
    await store.open()
    try:
        await store.create_tables(metadata)
        async with store.transaction() as transaction:
            await transaction.insert_rows(PRICES, [("pen", 0.1), ("ink", 2.3)])
        assert [each[0] for each in await store.rows().find(PRICES, BY_PRICE, [0.1], limit=9)] == ["pen"]
        assert await store.rows().count(PRICES, BY_PRICE, [2.3]) == 1
    finally:
        await store.close()
