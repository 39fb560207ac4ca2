"""Plain tables of entities in bulk: one SELECT for all ids, one INSERT, one prepared UPDATE with all rows at once.

Rows are plain values in every store (see `ensue.repository.TableRepository`): text, whole numbers, floats and bytes.
Where a column has a richer type (uuid, decimal, datetime), its values are written from and read as the plain ones.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from ensue.ports import Row, Table
from ensue.stores.sql.driver import Rows
from ensue.stores.sql.link import Link
from ensue.stores.sql_rows import Catalog, Change, changed

if TYPE_CHECKING:
    from ensue.stores.mariadb.link import AsyncmyLink

COLUMNS = (
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
)
#: Ids or rows in one statement.
CHUNK = 1000
#: And so much text and bytes: some is sent twice as long, and `max_allowed_packet` is 16 MB by default.
CHUNK_BYTES = 3_000_000


def _moment(value: Any) -> Any:
    """An ISO 8601 text as a DATETIME takes it: in UTC, without saying so."""
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value


#: type -> how a plain value is given to the driver.
TO_COLUMN: dict[str, Change] = {"datetime": _moment, "timestamp": _moment}
#: type -> how a value that the driver returns is made plain.
TO_PLAIN: dict[str, Change] = {
    "uuid": lambda value: str(value).replace("-", ""),
    "decimal": str,
    "datetime": lambda value: value.isoformat(),
    "timestamp": lambda value: value.isoformat(),
    "date": lambda value: value.isoformat(),
}

# NULLs come first by themselves.
CATALOG = Catalog(
    f"SELECT c.*, 0 FROM ({COLUMNS.replace('%s', ':place')}) c", lambda table: table.name, TO_COLUMN, TO_PLAIN
)


def chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows in order, as many at once as one statement takes; at least one."""
    begin = size = 0
    for at, row in enumerate(rows):
        of_row = sum([len(value) for value in row if isinstance(value, bytes | str)])
        if at - begin == CHUNK or (at > begin and size + of_row > CHUNK_BYTES):
            yield rows[begin:at]
            begin, size = at, 0
        size += of_row
    if begin < len(rows):
        yield rows[begin:]


class Statements:
    """The statements of one table. types: by column, in the table's order."""

    def __init__(self, table: Table, types: Sequence[str]) -> None:
        self._id_at = id_at = table.columns.index(table.id_column)
        names = [quoted(name) for name in table.columns]
        into, columns, key = quoted(table.name), ", ".join(names), names[id_at]
        # A percent sign in a name is no placeholder.
        self._load = (
            f"SELECT {columns} FROM {into} WHERE {key} IN ".replace("%", "%%"),
            f" ORDER BY {key} FOR UPDATE".replace("%", "%%"),
        )
        self._insert = f"INSERT INTO {into} ({columns}) VALUES ".replace("%", "%%")
        self._row = f"({', '.join(['%s'] * len(names))})"
        self._others = [at for at in range(len(names)) if at != id_at] or [id_at]
        changes = ", ".join(f"{names[at]} = ?" for at in self._others)
        self.update_text = f"UPDATE {into} SET {changes} WHERE {key} = ?"
        self.delete_text = f"DELETE FROM {into} WHERE {key} = ?"
        self._expected = f" AND {quoted(table.revision)} = ?" if table.revision else ""
        self._to_column = [(at, TO_COLUMN[kind]) for at, kind in enumerate(types) if kind in TO_COLUMN]
        self._to_plain = [(at, TO_PLAIN[kind]) for at, kind in enumerate(types) if kind in TO_PLAIN]

    def load_text(self, ids: int) -> str:
        begin, end = self._load
        return f"{begin}({', '.join(['%s'] * ids)}){end}"

    async def load(self, link: Link, ids: Sequence[Any]) -> Rows:
        wanted = list(dict.fromkeys(ids))
        if len(wanted) > CHUNK:
            wanted.sort()
        rows: list[Sequence[Any]] = []
        for begin in range(0, len(wanted), CHUNK):
            chunk = wanted[begin : begin + CHUNK]
            rows += await link.fetch(self.load_text(len(chunk)), *chunk)
        return [changed(row, self._to_plain) for row in rows] if self._to_plain else rows

    async def insert(self, link: Link, rows: Sequence[Row]) -> None:
        for chunk in chunks(rows):
            values = [value for row in chunk for value in changed(row, self._to_column)]
            await link.execute(self._insert + ", ".join([self._row] * len(chunk)), *values)

    async def update(self, link: Link, rows: Sequence[Row], expect: Sequence[Any]) -> int:
        tails: list[tuple[Any, ...]] = [(each,) for each in expect] or [()] * len(rows)
        values = [
            (*(row[at] for at in self._others), row[self._id_at], *tail)
            for row, tail in zip([changed(row, self._to_column) for row in rows], tails, strict=True)
        ]
        values.sort(key=itemgetter(len(self._others)))
        text = self.update_text + (self._expected if expect else "")
        return await cast("AsyncmyLink", link).execute_each(text, values)

    async def delete(self, link: Link, ids: Sequence[Any], expect: Sequence[Any]) -> int:
        values = list(zip(ids, expect, strict=True)) if expect else [(each,) for each in ids]
        text = self.delete_text + (self._expected if expect else "")
        return await cast("AsyncmyLink", link).execute_each(text, sorted(values))


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
