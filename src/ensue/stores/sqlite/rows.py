"""Plain tables of entities in bulk, as close to a bare sqlite3 loop as can be: the SQL text is made once a table.

One SELECT with as many parameters as ids, filled up to a power of two so that few statements are ever prepared.
Measured for 100 and 500 ids against `json_each`: equal for whole numbers, a tenth slower for text; but any type works.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ensue.ports import Table
from ensue.stores import rules

_IDS_MAX = 512


class Statements:
    """The statements of one table."""

    def __init__(self, table: Table) -> None:
        columns = [quoted(name) for name in table.columns]
        name = self._table = quoted(table.name)
        self._columns = ", ".join(columns)
        self._id = quoted(table.id_column)
        self._selects: dict[int, str] = {}
        self.insert = f"INSERT INTO {name} ({self._columns}) VALUES ({', '.join('?' * len(columns))})"
        # Numbered parameters: the row goes in as it is, its id wherever it stands.
        id_at = table.columns.index(table.id_column)
        changes = [f"{column} = ?{at + 1}" for at, column in enumerate(columns) if at != id_at]
        if not changes:  # nothing but an id: an update still says whether the row is there
            changes = [f"{self._id} = ?{id_at + 1}"]
        self.update = f"UPDATE {name} SET {', '.join(changes)} WHERE {self._id} = ?{id_at + 1}"

    def select(self, ids: int) -> tuple[str, int]:
        """Return the SELECT for this many ids, and how many parameters it has."""
        size = 1 << (ids - 1).bit_length()
        text = self._selects.get(size)
        if text is None:
            wanted = ", ".join("?" * size)
            text = self._selects[size] = f"SELECT {self._columns} FROM {self._table} WHERE {self._id} IN ({wanted})"
        return text, size


_statements: dict[Table, Statements] = {}


def _of(table: Table) -> Statements:
    found = _statements.get(table)
    if found is None:
        found = _statements[table] = Statements(table)
    return found


def load(connection: sqlite3.Connection, table: Table, ids: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the rows with these ids, each once, in any order."""
    statements = _of(table)
    found: list[tuple[Any, ...]] = []
    if len(ids) > _IDS_MAX:
        ids = list(dict.fromkeys(ids))  # an id in two chunks would come twice
    for begin in range(0, len(ids), _IDS_MAX):
        chunk = ids[begin : begin + _IDS_MAX]
        text, size = statements.select(len(chunk))
        found += connection.execute(text, (*chunk, *[chunk[-1]] * (size - len(chunk)))).fetchall()
    return found


def insert(connection: sqlite3.Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    connection.executemany(_of(table).insert, rows)


def update(connection: sqlite3.Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Update rows by id. Raises UsageError when one of them is not there: an entity's id must not change."""
    count = connection.executemany(_of(table).update, rows).rowcount
    if count != len(rows):
        raise rules.rows_missing(table.name, table.id_column, len(rows), count)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
