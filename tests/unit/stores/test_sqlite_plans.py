"""No statement that runs in a loop reads a whole table: its plan is looked at."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from ensue.stores.sqlite import checkpoints, dead_letters, once, outbox, schema

STATEMENTS = {
    "outbox_after": outbox._AFTER,
    "outbox_get": outbox._GET,
    "outbox_of": outbox._OF,
    "outbox_next": outbox._NEXT,
    "outbox_last": outbox._LAST,
    "outbox_prune": outbox._PRUNE,
    "outbox_set_head": outbox._SET_HEAD,
    "checkpoint_load": checkpoints._LOAD,
    "checkpoint_update": checkpoints._UPDATE,
    "checkpoint_watermarks": checkpoints._WATERMARKS,
    "letters_of_a_partition": f"{dead_letters._SELECT} WHERE subscription = ? AND topic = ? AND partition = ? "
    "AND state IN (?, ?) ORDER BY id LIMIT ?",
    "letter_change": dead_letters._CHANGE,
    "letter_remove": dead_letters._REMOVE,
    "claim": once._CLAIM,
    "response": once._LOAD,
    "inbox_prune": once._PRUNE_INBOX,
    "responses_prune": once._PRUNE_RESPONSES,
}
#: Its inner SELECT goes through the table in key order and stops at a LIMIT.
BOUNDED_BY_LIMIT = {"inbox_prune", "responses_prune"}


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:")
    schema.create(opened, "orders")
    yield opened
    opened.close()


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_finds_its_rows_by_a_key(connection: sqlite3.Connection, name: str) -> None:
    statement = STATEMENTS[name]
    plan = [
        row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", [1] * statement.count("?")).fetchall()
    ]
    scans = [step for step in plan if step.startswith("SCAN") and "subquery" not in step]
    if name in BOUNDED_BY_LIMIT:
        assert statement.count("LIMIT ?") == 1
        assert len(scans) <= 2, plan  # the bounded one, and the rows that came out of it
    else:
        assert not scans, plan
    assert not [step for step in plan if "TEMP B-TREE" in step], plan
