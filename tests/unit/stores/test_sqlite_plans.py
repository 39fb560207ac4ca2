"""No statement that runs in a loop reads a whole table: its plan is looked at."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from ensue.ports import Lookup, Table
from ensue.stores.sql_rows import count_statement, find_statement
from ensue.stores.sqlite import outbox, schema
from ensue.stores.sqlite.rows import Statements, quoted
from ensue.tables import TABLES

STATEMENTS = {
    "outbox_after": outbox._AFTER,
    "outbox_of": outbox._OF,
    "outbox_next": outbox._NEXT,
    "outbox_last": outbox._LAST,
    "outbox_prune": outbox._PRUNE,
    "outbox_set_head": outbox._SET_HEAD,
}
for table in TABLES:
    made = Statements(table)
    STATEMENTS |= {f"{table.name}_{ids}": made.select(ids)[0] for ids in (1, 100)}
    STATEMENTS |= {f"{table.name}_update": made.update, f"{table.name}_delete": made.delete}
    if table.revision:
        STATEMENTS |= {f"{table.name}_update_expected": made.update_expected}
        STATEMENTS |= {f"{table.name}_delete_expected": made.delete_expected}

LOOKUPS = [(table, lookup) for table in TABLES for lookup in table.lookups]
NAMES = [f"{table.name}_{number}" for table in TABLES for number, _ in enumerate(table.lookups, 1)]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:")
    schema.create(opened, "orders")
    yield opened
    opened.close()


def plan(connection: sqlite3.Connection, statement: str, values: list[int] | dict[str, Any]) -> list[str]:
    found = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()]
    assert not [step for step in found if "TEMP B-TREE" in step], found
    return found


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_finds_its_rows_by_a_key(connection: sqlite3.Connection, name: str) -> None:
    statement = STATEMENTS[name]
    numbered = [int(each) for each in re.findall(r"\?(\d+)", statement)]
    found = plan(connection, statement, [1] * max([statement.count("?") - len(numbered), *numbered]))
    assert not [step for step in found if step.startswith("SCAN") and "subquery" not in step], found


@pytest.mark.parametrize(("table", "lookup"), LOOKUPS, ids=NAMES)
@pytest.mark.parametrize("which", ["first", "following", "last", "before"])
def test_a_page_of_own_rows_begins_where_its_index_says(
    connection: sqlite3.Connection, table: Table, lookup: Lookup, which: str
) -> None:
    after = [1] * len(lookup.order) if which in ("following", "before") else []
    equal, backward = [1] * len(lookup.equal), which in ("last", "before")
    [step] = plan(connection, *find_statement(table, lookup, equal, (), after, 100, quoted, backward=backward))
    assert " INDEX " in step, step
    # Nothing to begin at: the whole index in its order, which the limit ends.
    assert step.startswith("SEARCH") == bool(equal or after), step


COUNTED = [(table, lookup) for table, lookup in LOOKUPS if lookup.equal]


@pytest.mark.parametrize(("table", "lookup"), COUNTED, ids=lambda each: getattr(each, "name", None))
def test_own_rows_are_counted_in_an_index(connection: sqlite3.Connection, table: Table, lookup: Lookup) -> None:
    [step] = plan(connection, *count_statement(table, lookup, [1] * len(lookup.equal), quoted))
    assert step.startswith("SEARCH"), step
    assert "USING COVERING INDEX" in step, step
