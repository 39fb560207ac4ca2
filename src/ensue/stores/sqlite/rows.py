"""Plain tables of entities in bulk, as close to a bare sqlite3 loop as can be: the SQL text is made once a table.

One SELECT with as many parameters as ids, filled up to a power of two so that few statements are ever prepared.
Measured for 100 and 500 ids against `json_each`: equal for whole numbers, a tenth slower for text; but any type works.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ensue.ports import Row, Table
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
        self.delete = f"DELETE FROM {name} WHERE {self._id} = ?1"
        if table.revision:
            expected = f" AND {quoted(table.revision)} = "
            self.update_expected = f"{self.update}{expected}?{len(columns) + 1}"
            self.delete_expected = f"{self.delete}{expected}?2"

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


def insert(connection: sqlite3.Connection, table: Table, rows: Sequence[Row]) -> None:
    try:
        connection.executemany(_of(table).insert, rows)
    except sqlite3.IntegrityError as error:
        if table.own:
            raise rules.row_exists(table.name, [row[0] for row in rows]) from error
        raise


def update(connection: sqlite3.Connection, table: Table, rows: Sequence[Row], expect: Sequence[Any] = ()) -> None:
    """Update rows by id. Raises UsageError when one of them is not there (an entity's id must not change), and
    RowConflict when one is not as expected."""
    statements = _of(table)
    if not expect:
        count = connection.executemany(statements.update, rows).rowcount
        if count != len(rows):
            raise rules.rows_missing(table.name, table.id_column, len(rows), count)
        return
    values = [(*row, each) for row, each in zip(rows, expect, strict=True)]
    count = connection.executemany(statements.update_expected, values).rowcount
    if count != len(rows):
        at = table.columns.index(table.id_column)
        raise rules.rows_changed(table.name, [row[at] for row in rows], count)


def delete(connection: sqlite3.Connection, table: Table, ids: Sequence[Any], expect: Sequence[Any] = ()) -> None:
    if not expect:
        connection.executemany(_of(table).delete, [(each,) for each in ids])
        return
    count = connection.executemany(_of(table).delete_expected, list(zip(ids, expect, strict=True))).rowcount
    if count != len(ids):
        raise rules.rows_changed(table.name, ids, count)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
