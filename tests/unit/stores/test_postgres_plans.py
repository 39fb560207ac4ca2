"""No statement that runs in a loop reads a whole table: its plan on a big one is looked at."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from servers import PostgresServer
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from ensue import Lookup, TableRepository
from ensue.ports import Kind, Table
from ensue.stores.postgres import PostgresStore, dialect, polled, stamps, unsent
from ensue.stores.postgres.dialect import PostgresDialect
from ensue.stores.postgres.handshake import quoted
from ensue.stores.postgres.rows import Statements
from ensue.stores.sql_rows import Columns, find_statement
from ensue.tables import ANSWERS, CHECKPOINTS, CLAIMS, LETTERS

DATABASE = "plans"
SQL = PostgresDialect()
RECORDS = 60_000
#: Three records are not stamped; the statistics are from before, as they are in a database that is in use.
FILL = f"""
INSERT INTO ensue_outbox (topic, partition_no, record_key, envelope, data, written_at)
SELECT 'orders', n % 12, n::text, '{{}}', repeat('x', 100)::bytea, n FROM generate_series(1, {RECORDS}) n;
INSERT INTO ensue_stamp (last, ids, previous)
SELECT max(n), array_agg(n ORDER BY n), array_agg(0 ORDER BY n) FROM generate_series(1, {RECORDS}) n
GROUP BY (n - 1) / 50;
UPDATE ensue_polled SET seen_id = {RECORDS}, hole_first = '{{7,900}}', hole_last = '{{9,905}}', hole_before = '{{1,1}}';
INSERT INTO ensue_inbox SELECT n::text, n FROM generate_series(1, 20000) n;
INSERT INTO ensue_response SELECT n::text, n::text, '', 200, '{{}}', '', n FROM generate_series(1, 20000) n;
INSERT INTO ensue_checkpoint SELECT 't/' || n, 0, 1, '{{}}' FROM generate_series(1, 5000) n;
INSERT INTO ensue_dead_letter SELECT 't/' || n % 100 || ':' || n, 't/' || n % 100, n, 'dead', 1, n, '', 1, 0, '', '',
    '', 1, 0, '', '', n FROM generate_series(1, 20000) n;
UPDATE ensue_counter SET last_position = {RECORDS};
VACUUM ANALYZE;
INSERT INTO ensue_outbox (topic, partition_no, record_key, envelope, data, written_at)
SELECT 'orders', n, 'late', '{{}}', '{{}}', 0 FROM generate_series(1, 3) n;
"""
STATEMENTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "look": (polled.LOOK, (RECORDS, 500)),
    "poll": (polled.WAITING, ()),
    "unsent": (unsent.POLLED, ()),
    "outbox_stamps": (SQL.text(stamps.STAMPS_OF), (RECORDS - 100, RECORDS + 2000, RECORDS)),
    "outbox_rows": (SQL.text(stamps.BY_ID), (list(range(1, 501)),)),
    "outbox_next": (SQL.text(stamps.NEXT), (100,)),
    "prune_stamps": (SQL.text(stamps.OLDEST_STAMPS), (0, 500)),
    "prune_ages": (SQL.text(stamps.WRITTEN), (list(range(1, 501)),)),
    "prune_rows": (SQL.text(stamps.DELETE), (list(range(1, 501)),)),
}
_VALUES: dict[Kind, Any] = {Kind.NAME: "t/5", Kind.TEXT: "{}", Kind.BYTES: b"{}", Kind.INT: 5, Kind.FLOAT: 5.0}
#: Of these there are many rows. The others have one row, or one a source.
MANY = (CHECKPOINTS, LETTERS, CLAIMS, ANSWERS)


def _of(table: Table) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """What is done with the rows of a table of Ensue's own."""
    made = Statements(table, [SQL.types[kind] for kind in table.kinds], [""] * len(table.kinds))
    row = tuple(_VALUES[kind] for kind in table.kinds)
    rows = tuple([value] for value in row)
    found = {
        "load": (made.load_text, (["t/5"],)),
        "update": (made.update_text, rows),
        "update_one": (made.update_one, row),
        "delete": (made.delete_text, (["t/5"],)),
    }
    if table.revision:
        found |= {
            "update_expected": (made.update_expected, (*rows, [1])),
            "update_one_expected": (made.update_one_expected, (*row, 1)),
            "delete_expected": (made.delete_expected, (["t/5"], [1])),
        }
    kinds = dict(zip(table.columns, table.kinds, strict=True))
    for number, lookup in enumerate(table.lookups, 1):
        equal = ["dead" if name == "state" else _VALUES[kinds[name]] for name in lookup.equal]
        for after in ([], [_VALUES[kinds[name]] for name in lookup.order]):
            named = find_statement(table, lookup, equal, (), after, 500, quoted)
            found[f"find_{number}{'_after' if after else ''}"] = _numbered(*named)
        before = [_VALUES[kinds[name]] for name in lookup.order]
        named = find_statement(table, lookup, equal, (), before, 500, quoted, backward=True)
        found[f"find_{number}_before"] = _numbered(*named)
    return {f"{table.name}_{name}": statement for name, statement in found.items()}


def _numbered(text: str, values: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """With `$1` for `:e0`, as drivers have it."""
    names = list(values)
    return re.sub(r":(\w+)", lambda name: f"${names.index(name[1]) + 1}", text), tuple(values.values())


for table in MANY:
    STATEMENTS |= _of(table)


@pytest.fixture(scope="module")
def dsn(postgres_server: PostgresServer) -> Iterator[str]:
    yield postgres_server.url(DATABASE)
    postgres_server.drop(DATABASE)


@pytest.fixture
async def connection(postgres_server: PostgresServer, dsn: str) -> Any:
    store = PostgresStore(dsn, "orders")
    if not await store.exists():
        await store.open()
        await store.close()
        for statement in FILL.split(";\n"):
            if statement.strip():
                postgres_server.psql(DATABASE, statement)
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("generic", [True, False], ids=["generic", "custom"])
@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_finds_its_rows_by_an_index(connection: Any, name: str, generic: bool) -> None:
    """With the plan for these values, and with the one that a prepared statement keeps for any."""
    statement, values = STATEMENTS[name]
    mode = "force_generic_plan" if generic else "force_custom_plan"
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
    [(found,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON, ANALYZE, TIMING OFF) {statement}", *values)
    await transaction.rollback()
    plan = json.loads(found)[0]["Plan"]
    big = {"ensue_outbox", "ensue_stamp", *(table.name for table in MANY)}
    scans = [node for node in nodes(plan) if node["Node Type"] == "Seq Scan" and node["Relation Name"] in big]
    assert not scans, json.dumps(scans, indent=1)
    read = sum(node["Actual Rows"] for node in nodes(plan) if "Index" in node["Node Type"])
    assert read < 25_000, f"{read} rows were read"


async def test_entities_of_a_table_that_was_never_analyzed_are_not_compared_one_by_one(connection: Any) -> None:
    """A plan made without statistics that filters by `= ANY` compares each row with each id."""
    table = Table("plan_account", ("id", "balance"), "id")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("CREATE TABLE plan_account (id varchar(32) PRIMARY KEY, balance bigint NOT NULL)")
    await connection.execute("INSERT INTO plan_account SELECT 'account-' || n, 0 FROM generate_series(1, 1000) n")
    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    text = Statements(table, ["character varying", "bigint"], ["S", "N"]).load_text
    ids = [f"account-{number}" for number in range(1, 401)]
    [(found,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON, ANALYZE, TIMING OFF) {text}", ids)
    await transaction.rollback()
    plan = json.loads(found)[0]["Plan"]
    assert plan["Actual Rows"] == 400
    filtered = [node for node in nodes(plan) if node.get("Rows Removed by Filter")]
    assert not filtered, json.dumps(filtered, indent=1)


async def test_a_lookup_with_nothing_first_is_read_in_the_order_of_the_index_that_its_declaration_makes(
    connection: Any,
) -> None:
    """An index as PostgreSQL makes it by itself has NULLs last, and every page would be sorted."""

    @dataclasses.dataclass
    class Planned:
        id: int
        sent: int | None

    table = sa.Table(
        "plan_sent", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("sent", sa.BigInteger)
    )
    lookup = Lookup((), ("sent", "id"))
    declared = TableRepository(Planned, table, lookups=[lookup]).table
    [index] = table.indexes
    speech = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's
    transaction = connection.transaction()
    await transaction.start()
    for statement in (CreateTable(table), CreateIndex(index)):
        await connection.execute(str(statement.compile(dialect=speech)))
    await connection.execute("INSERT INTO plan_sent SELECT n, nullif(n % 9, 0) FROM generate_series(1, 20000) n")
    await connection.execute("ANALYZE plan_sent")
    columns = Columns(last={"sent"})
    for after in ([], [None, 9], [3, 9]):
        text, values = find_statement(declared, lookup, [], [], after, 20, quoted, columns)
        for name, value in values.items():
            text = text.replace(f":{name}", str(value))
        [(found,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON, ANALYZE, TIMING OFF) {text}")
        kinds = {node["Node Type"] for node in nodes(json.loads(found)[0]["Plan"])}
        assert not any("Sort" in kind or "Seq" in kind for kind in kinds), kinds
    await transaction.rollback()


@pytest.mark.parametrize("generic", [True, False], ids=["generic", "custom"])
@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (dialect.ADD_ONE, ("orders", 1, "k", b"{}", b"{}", 0.0)),
        (dialect.ADD, (["orders"] * 2, [1, 2], ["k", "l"], [b"{}"] * 2, [b"{}"] * 2, 0.0)),
    ],
    ids=["one", "many"],
)
async def test_a_transaction_has_its_own_id_before_it_takes_one_of_the_outbox(
    connection: Any, statement: str, values: tuple[Any, ...], generic: bool
) -> None:
    """What `holes.py` rests on. A default that complains stands where the outbox takes its next id."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"SET plan_cache_mode = force_{'generic' if generic else 'custom'}_plan")
    await connection.execute(
        "CREATE FUNCTION pg_temp.next_id() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN "
        "IF pg_current_xact_id_if_assigned() IS NULL THEN RAISE 'an id before the transaction has its own'; END IF; "
        "RETURN 1; END $$"
    )
    await connection.execute("CREATE TEMPORARY TABLE taking (LIKE ensue_outbox INCLUDING DEFAULTS)")
    await connection.execute("ALTER TABLE taking ALTER id SET DEFAULT pg_temp.next_id()")
    await transaction.commit()  # making them has given this transaction an id already
    careless = statement.replace(dialect._HAS_ID, "").replace("ensue_outbox", "taking")
    with pytest.raises(asyncpg.RaiseError, match="before the transaction has its own"):
        await connection.execute(careless, *values)
    await connection.execute(statement.replace("ensue_outbox", "taking"), *values)
