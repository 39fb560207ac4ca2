"""Queries on tables of entities as plain SQL, for every store that speaks it: see `ensue.ports.RowReader`.

Texts have named parameters (`:e0`), which SQLAlchemy's `text()` and sqlite3 both take as they are. A place in a lookup
is compared column by column and not as a tuple: MariaDB and SQLite use an index for the first, not always for the
second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ensue.errors import UsageError
from ensue.ports import Lookup, Table

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

#: Ids in one statement.
IDS_MAX = 500

Quote = Callable[[str], str]
Statement = tuple[str, dict[str, Any]]


Change = Callable[[Any], Any]


def changed(row: Sequence[Any], changes: Sequence[tuple[int, Change]]) -> Sequence[Any]:
    """The row with the values at these places changed, but for None."""
    if not changes:
        return row
    values = list(row)
    for at, change in changes:
        if values[at] is not None:
            values[at] = change(values[at])
    return values


def check_columns(table: Table, found: Container[str], place: str = "") -> None:
    """Raise UsageError when the database has the table without some of its columns."""
    missing = [name for name in table.columns if name not in found]
    if missing:
        raise UsageError(
            f"{place}table {table.name} has no column {', '.join(missing)}, or is not there: create it, or run the "
            "migration that does",
            table=table.name,
        )


class Columns:
    """How values of a table's columns are written and read where a database has richer types than plain values.

    to_column: by name, what a plain value becomes. to_plain: by place in `table.columns`, what a value read becomes.
    last: columns whose NULLs this database would sort last.
    """

    def __init__(
        self,
        to_column: Mapping[str, Change] | None = None,
        to_plain: Sequence[tuple[int, Change]] = (),
        last: Container[str] = (),
    ) -> None:
        self._to_column = to_column or {}
        self._to_plain = to_plain
        self._last = last

    def written(self, names: Sequence[str], values: Sequence[Any]) -> Sequence[Any]:
        return [
            value if value is None or name not in self._to_column else self._to_column[name](value)
            for name, value in zip(names, values, strict=False)
        ]

    def plain(self, row: Sequence[Any]) -> Sequence[Any]:
        return changed(row, self._to_plain)

    def order(self, name: str, quoted: str, backward: bool = False) -> str:
        if name not in self._last:
            return f"{quoted} DESC" if backward else quoted
        return f"{quoted} DESC NULLS LAST" if backward else f"{quoted} NULLS FIRST"


_PLAIN = Columns()


def get_statement(table: Table, ids: Sequence[Any], quote: Quote) -> Statement:
    """The rows with these ids, at most IDS_MAX of them."""
    wanted = {f"i{number}": each for number, each in enumerate(ids)}
    return _get_text(table, len(ids), quote), wanted


def find_statement(
    table: Table,
    lookup: Lookup,
    equal: Sequence[Any],
    since: Sequence[Any],
    after: Sequence[Any],
    limit: int,
    quote: Quote,
    columns: Columns = _PLAIN,
    backward: bool = False,
) -> Statement:
    values: dict[str, Any] = {}
    shape = []
    for prefix, each in (("e", equal), ("s", since), ("a", after)):
        shape.append(tuple(value is None for value in each))
        values |= {f"{prefix}{number}": value for number, value in enumerate(each) if value is not None}
    return _find_text(table, lookup, *shape, quote, columns, backward), values | {"rows": limit}


def count_statement(table: Table, lookup: Lookup, equal: Sequence[Any], quote: Quote) -> Statement:
    nulls = tuple(each is None for each in equal)
    values = {f"e{number}": each for number, each in enumerate(equal) if each is not None}
    where = _where(_equal(lookup, nulls, quote))
    return f"SELECT count(*) FROM {quote(table.name)}{where}", values


#: For the values of some columns whether each is None.
Nulls = tuple[bool, ...]


@lru_cache(maxsize=1024)
def _get_text(table: Table, ids: int, quote: Quote) -> str:
    wanted = ", ".join(f":i{number}" for number in range(ids))
    return f"{_select(table, quote)} WHERE {quote(table.id_column)} IN ({wanted})"


@lru_cache(maxsize=1024)
def _find_text(
    table: Table,
    lookup: Lookup,
    equal: Nulls,
    since: Nulls,
    after: Nulls,
    quote: Quote,
    columns: Columns,
    backward: bool,
) -> str:
    conditions = _equal(lookup, equal, quote)
    order = [quote(name) for name in lookup.order]
    if since:
        conditions.append(_from(order, "s", since, ">="))
    if after and backward:
        conditions.append(_before(order, "a", after, nothing=not table.own))
    elif after:
        conditions.append(_from(order, "a", after, ">"))
    places = ", ".join(columns.order(name, column, backward) for name, column in zip(lookup.order, order, strict=True))
    return f"{_select(table, quote)}{_where(conditions)} ORDER BY {places} LIMIT :rows"


def _select(table: Table, quote: Quote) -> str:
    return f"SELECT {', '.join(quote(name) for name in table.columns)} FROM {quote(table.name)}"


def _equal(lookup: Lookup, nulls: Nulls, quote: Quote) -> list[str]:
    return [
        f"{quote(name)} IS NULL" if null else f"{quote(name)} = :e{number}"
        for number, (name, null) in enumerate(zip(lookup.equal, nulls, strict=True))
    ]


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _from(columns: Sequence[str], prefix: str, nulls: Nulls, last: str, at: int = 0) -> str:
    """Rows whose first columns come after the values `:prefix0, :prefix1, …` (or are them, with last=">="). NULL comes
    before everything, and no comparison with a value is true of it."""
    column, value = columns[at], f":{prefix}{at}"
    if at == len(nulls) - 1:
        if nulls[at]:
            return f"{column} IS NOT NULL" if last == ">" else "1 = 1"
        return f"{column} {last} {value}"
    rest = _from(columns, prefix, nulls, last, at + 1)
    if nulls[at]:
        return f"({column} IS NOT NULL OR ({rest}))"
    return f"({column} >= {value} AND ({column} > {value} OR ({rest})))"


def _before(columns: Sequence[str], prefix: str, nulls: Nulls, *, nothing: bool, at: int = 0) -> str:
    """Rows whose columns come before the values. nothing: whether a column may be NULL; where none may, as in Ensue's
    own tables, an index is read from the place on."""
    column, value = columns[at], f":{prefix}{at}"
    last = at == len(nulls) - 1
    rest = "" if last else _before(columns, prefix, nulls, nothing=nothing, at=at + 1)
    if nulls[at]:
        return "1 = 0" if last else f"({column} IS NULL AND {rest})"
    found = f"{column} < {value}" if last else f"({column} <= {value} AND ({column} < {value} OR {rest}))"
    return f"({column} IS NULL OR {found})" if nothing else found


@dataclasses.dataclass(frozen=True, slots=True)
class Catalog:
    """What a database says of a table's columns. query: their names, their types, and whether the database would sort
    their NULLs last, where `:place` is `place(table)`. to_column, to_plain: by type."""

    query: str
    place: Callable[[Table], str]
    to_column: Mapping[str, Change]
    to_plain: Mapping[str, Change]


class SqlRows:
    """`RowReader` over the sessions of `Store.reading`: `SqlRows(self.reading)` is all of an adapter's `rows()`.

    catalog: for databases whose columns have richer types than plain values, on which their drivers insist. Keep one
    for a store then: it looks up a table's types once.
    """

    def __init__(
        self, reading: Callable[[], AbstractAsyncContextManager[AsyncSession]], catalog: Catalog | None = None
    ) -> None:
        self._reading = reading
        self._catalog = catalog
        self._known: dict[Table, Columns] = {}

    async def _columns(self, session: AsyncSession, table: Table) -> Columns:
        catalog = self._catalog
        if catalog is None:
            return _PLAIN
        found = self._known.get(table)
        if found is None:
            from sqlalchemy import text

            rows = await session.execute(text(catalog.query), {"place": catalog.place(table)})
            described = {str(name): (str(kind).lower(), last) for name, kind, last in rows}
            check_columns(table, described)
            kinds = [described[name][0] for name in table.columns]
            found = self._known[table] = Columns(
                {name: catalog.to_column[kind] for name, (kind, _) in described.items() if kind in catalog.to_column},
                [(at, catalog.to_plain[kind]) for at, kind in enumerate(kinds) if kind in catalog.to_plain],
                frozenset(name for name, (_, last) in described.items() if last),
            )
        return found

    async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Sequence[Any]]:
        found: list[Sequence[Any]] = []
        wanted = list(dict.fromkeys(ids))  # an id in two chunks would come twice
        async with self._reading() as session:
            columns = await self._columns(session, table)
            for begin in range(0, len(wanted), IDS_MAX):
                chunk = wanted[begin : begin + IDS_MAX]
                written = columns.written([table.id_column] * len(chunk), chunk)
                found += await _rows(session, get_statement(table, written, _quote_of(session)), columns)
        return found

    async def find(
        self,
        table: Table,
        lookup: Lookup,
        equal: Sequence[Any],
        *,
        since: Sequence[Any] = (),
        after: Sequence[Any] = (),
        limit: int,
        backward: bool = False,
    ) -> Sequence[Sequence[Any]]:
        async with self._reading() as session:
            columns = await self._columns(session, table)
            equal = columns.written(lookup.equal, equal)
            since, after = columns.written(lookup.order, since), columns.written(lookup.order, after)
            statement = find_statement(table, lookup, equal, since, after, limit, _quote_of(session), columns, backward)
            return await _rows(session, statement, columns)

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        async with self._reading() as session:
            columns = await self._columns(session, table)
            written = columns.written(lookup.equal, equal)
            statement = count_statement(table, lookup, written, _quote_of(session))
            [(count,)] = await _rows(session, statement)
        return int(count)


def _quote_of(session: AsyncSession) -> Quote:
    preparer = session.get_bind().dialect.identifier_preparer
    return _quoting(preparer.initial_quote, preparer.final_quote, preparer.escape_quote, preparer.escape_to_quote)


@lru_cache
def _quoting(begin: str, end: str, quote: str, instead: str) -> Quote:
    """One for all statements of a dialect: texts are kept by it. What a name has of `text()`'s own signs is escaped,
    and `%` is left to it."""
    return lambda name: (begin + name.replace(quote, instead) + end).replace(":", "\\:")


async def _rows(session: AsyncSession, statement: Statement, columns: Columns = _PLAIN) -> list[Sequence[Any]]:
    from sqlalchemy import text

    return [columns.plain(tuple(row)) for row in await session.execute(text(statement[0]), statement[1])]
