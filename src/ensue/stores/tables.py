"""Tables: Ensue's own as statements that make them; the user's as declared, compared with those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ensue.ports import Table

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData


def creating(table: Table, types: Mapping[str, str], *, inline: bool = False) -> list[str]:
    """The statements that make one of Ensue's own tables and its indexes; its names need no quotes anywhere.

    types: a database's name for each kind of column; `begin` and `end`: what it says before a table's name and after
    its columns. inline: indexes are a part of the table's statement.
    """
    lines = [
        f"{name} {types[kind]} {'PRIMARY KEY' if name == table.id_column else 'NOT NULL'}"
        for name, kind in zip(table.columns, table.kinds, strict=True)
    ]
    indexes = {
        f"{table.name}_{number}": f"({', '.join(columns)})"
        for number, columns in enumerate(dict.fromkeys((*each.equal, *each.order) for each in table.lookups), 1)
        if columns != (table.id_column,)
    }
    if inline:
        lines += [f"INDEX {name} {columns}" for name, columns in indexes.items()]
        indexes = {}
    body = ",\n    ".join(lines)
    made = [f"CREATE TABLE {types['begin']}{table.name} (\n    {body}\n){types['end']}"]
    return made + [f"CREATE INDEX {name} ON {table.name} {columns}" for name, columns in indexes.items()]


def missing(connection: Connection, metadata: MetaData, *, create: bool) -> list[str]:
    """What the metadata declares and the database has not: `table <name>` and `column <table>.<column>`.

    create: make the tables that are missing first.
    """
    from sqlalchemy import inspect

    if create:
        metadata.create_all(connection)
    inspector = inspect(connection)
    lacking: list[str] = []
    for table in metadata.sorted_tables:
        if not inspector.has_table(table.name, table.schema):
            lacking.append(f"table {table.fullname}")
            continue
        found = {column["name"] for column in inspector.get_columns(table.name, table.schema)}
        lacking += [f"column {table.fullname}.{column.name}" for column in table.columns if column.name not in found]
    return lacking
