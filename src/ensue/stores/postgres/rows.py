"""Plain tables of entities in bulk: one statement a call, arrays in, with the columns' types from the catalog.

Rows are plain values in every store (see `ensue.repository.TableRepository`): text, whole numbers, floats and bytes.
Where a column has a richer type (uuid, numeric, timestamps, booleans), its values are written from and read as the
plain ones: 32 hex digits, decimal text, ISO 8601, 0 and 1. Richer values given are taken as they are.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from ensue.ports import Row, Table
from ensue.stores.postgres.handshake import quoted
from ensue.stores.sql.driver import Rows
from ensue.stores.sql.link import Link
from ensue.stores.sql_rows import Catalog, Change, changed

#: Types as they are cast to, without a length: a cast to varchar(10) would cut, an assignment refuses.
COLUMNS = (
    "SELECT a.attname, format_type(a.atttypid, -1), t.typcategory::text, a.attnotnull FROM pg_attribute a "
    "JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped"
)


def _from_text(kind: Any) -> Change:
    return lambda value: kind.fromisoformat(value) if isinstance(value, str) else value


def _decimal(value: Any) -> Any:
    """A float as it is written: exactly, 0.1 is another number, and not the one in a numeric(10, 2)."""
    if isinstance(value, float):
        return decimal.Decimal(str(value))
    return decimal.Decimal(value) if isinstance(value, str | int) else value


#: type -> how a plain value is given to a driver.
TO_COLUMN: dict[str, Change] = {
    "uuid": lambda value: uuid.UUID(value) if isinstance(value, str) else value,
    "numeric": _decimal,
    "timestamp with time zone": _from_text(datetime.datetime),
    "timestamp without time zone": _from_text(datetime.datetime),
    "date": _from_text(datetime.date),
    "boolean": lambda value: bool(value) if isinstance(value, int) else value,
}
#: type -> how a value that a driver returns is made plain.
TO_PLAIN: dict[str, Change] = {
    "uuid": lambda value: value.hex,
    "numeric": str,
    "timestamp with time zone": lambda value: value.isoformat(),
    "timestamp without time zone": lambda value: value.isoformat(),
    "date": lambda value: value.isoformat(),
    "boolean": int,
}

# NULLs come last in an ascending order here, where a column has any. A colon in a text of SQLAlchemy's would be a
# parameter.
_QUERY = (
    "SELECT name, kind, NOT filled FROM ("
    + COLUMNS.replace("::", "\\:\\:").replace("$1", ":place")
    + ") c (name, kind, category, filled)"
)
CATALOG = Catalog(_QUERY, lambda table: quoted(table.name), TO_COLUMN, TO_PLAIN)


class Statements:
    """The statements of one table. types: by column, in the table's order, and what sorts of types they are (as of
    `typcategory`)."""

    def __init__(self, table: Table, types: Sequence[str], sorts: Sequence[str]) -> None:
        self._arrays = "A" in sorts
        self._id_at = id_at = table.columns.index(table.id_column)
        names = [quoted(name) for name in table.columns]
        into, columns, key = quoted(table.name), ", ".join(names), names[id_at]
        # A join, not `= ANY`: that compares each row of a small table with each id, where no statistics are known.
        # Members of an enum as text: psycopg would return their bytes.
        read = ", ".join(
            f"t.{name}::text" if sort == "E" else f"t.{name}" for name, sort in zip(names, sorts, strict=True)
        )
        self.load_text = (
            f"SELECT {read} FROM unnest($1::{types[id_at]}[]) AS w(id) "
            f"JOIN {into} t ON t.{key} = w.id ORDER BY t.{key} FOR UPDATE OF t"
        )
        sources = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
        values = ", ".join(f"${number}" for number in range(1, len(types) + 1))
        others = [name for at, name in enumerate(names) if at != id_at] or [key]  # an update says whether it is there
        changes = ", ".join(f"{name} = v.{name}" for name in others)
        single = ", ".join(f"{name} = ${names.index(name) + 1}" for name in others)
        # Of Ensue's own rows one that is there already shows in the count, and is no error that ends the transaction.
        end = " ON CONFLICT DO NOTHING" if table.own else ""
        self.insert_text = f"INSERT INTO {into} ({columns}) SELECT * FROM unnest({sources}){end}"
        self.insert_one = f"INSERT INTO {into} ({columns}) VALUES ({values}){end}"
        self.update_text = (
            f"UPDATE {into} t SET {changes} FROM unnest({sources}) AS v({columns}) WHERE t.{key} = v.{key}"
        )
        self.update_one = f"UPDATE {into} SET {single} WHERE {key} = ${id_at + 1}"
        self.delete_text = f"DELETE FROM {into} WHERE {key} = ANY($1::{types[id_at]}[])"
        if table.revision:
            # The row as it was loaded, or none: what a concurrent transaction has changed does not match any more.
            revision, kind = quoted(table.revision), types[table.columns.index(table.revision)]
            last = len(types) + 1
            self.update_expected = (
                f"UPDATE {into} t SET {changes} FROM unnest({sources}, ${last}::{kind}[]) AS v({columns}, expected) "
                f"WHERE t.{key} = v.{key} AND t.{revision} = v.expected"
            )
            self.update_one_expected = f"{self.update_one} AND {revision} = ${last}"
            self.delete_expected = (
                f"DELETE FROM {into} t USING unnest($1::{types[id_at]}[], $2::{kind}[]) AS v(id, expected) "
                f"WHERE t.{key} = v.id AND t.{revision} = v.expected"
            )
        self._to_column = [(at, TO_COLUMN[kind]) for at, kind in enumerate(types) if kind in TO_COLUMN]
        self._to_plain = [(at, TO_PLAIN[kind]) for at, kind in enumerate(types) if kind in TO_PLAIN]
        self._id_to_column = TO_COLUMN.get(types[id_at])

    async def load(self, link: Link, ids: Sequence[Any]) -> Rows:
        change = self._id_to_column
        wanted = list(dict.fromkeys(ids)) if change is None else [change(each) for each in dict.fromkeys(ids)]
        rows = await link.fetch(self.load_text, wanted)
        return [changed(row, self._to_plain) for row in rows] if self._to_plain else rows

    async def insert(self, link: Link, rows: Sequence[Row]) -> int:
        """Return how many were not there yet."""
        return await self._many(link, rows, self.insert_text, self.insert_one)

    async def update(self, link: Link, rows: Sequence[Row], expect: Sequence[Any]) -> int:
        if expect:
            rows = [(*row, each) for row, each in zip(rows, expect, strict=True)]
            texts = (self.update_expected, self.update_one_expected)
        else:
            texts = (self.update_text, self.update_one)
        return await self._many(link, sorted(rows, key=itemgetter(self._id_at)), *texts)

    async def delete(self, link: Link, ids: Sequence[Any], expect: Sequence[Any]) -> int:
        change = self._id_to_column
        wanted = list(ids) if change is None else [change(each) for each in ids]
        if expect:
            return await link.execute(self.delete_expected, wanted, list(expect))
        return await link.execute(self.delete_text, wanted)

    async def _many(self, link: Link, rows: Sequence[Row], text: str, one: str) -> int:
        if self._to_column:
            rows = [changed(row, self._to_column) for row in rows]
        if len(rows) == 1:
            return await link.execute(one, *rows[0])
        if self._arrays:  # unnest would take arrays of arrays apart
            return sum([await link.execute(one, *row) for row in rows])
        return await link.execute(text, *map(list, zip(*rows, strict=True)))
