"""The user's tables as declared, compared with those that are there."""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, inspect


def missing(connection: Connection, metadata: MetaData) -> list[str]:
    """What the metadata declares and the database has not: `table <name>` and `column <table>.<column>`."""
    inspector = inspect(connection)
    lacking: list[str] = []
    for table in metadata.sorted_tables:
        if not inspector.has_table(table.name, table.schema):
            lacking.append(f"table {table.fullname}")
            continue
        found = {column["name"] for column in inspector.get_columns(table.name, table.schema)}
        lacking += [f"column {table.fullname}.{column.name}" for column in table.columns if column.name not in found]
    return lacking
