"""One state of a service's database: how far it had come, what was set aside, and the rows that it had then.

Where there are sessions, it is all read in one read transaction. Where there are none, the checkpoints are read before
and after the rows, and once more from the beginning when they have moved meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ensue.definition import ServiceDefinition
from ensue.engine.books import Books
from ensue.errors import StoreConflict, UsageError
from ensue.message import Checkpoint, DeadLetter, Partition
from ensue.ports import Store
from ensue.repository import TableRepository
from ensue.tables import CHECKPOINTS, LETTERS

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table
    from sqlalchemy.ext.asyncio import AsyncSession

#: Rows at once, of stores that give them page by page.
_PAGE = 500

Found = tuple[tuple[Any, ...], Mapping[str, Any]]
"""A row: the values of its key, and all of them by column."""


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """A table of the user's. key: the columns that tell a row from the others; all, where it has no primary key.
    left_out: columns that are not compared."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    table: Table | None = None
    repository: TableRepository[Any] | None = None
    left_out: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """rows: of one table, each as it was then."""

    checkpoints: Mapping[Partition, Checkpoint]
    letters: Sequence[DeadLetter]
    rows: Callable[[Compared], AsyncIterator[Found]]


def tables_of(definition: ServiceDefinition, metadata: MetaData | None, store: Store) -> list[Compared]:
    """The tables that a service keeps, in order. Raises UsageError when there is none that could be compared."""
    found: dict[str, Compared] = {}
    if store.capabilities.sessions:
        tables = list(metadata.tables.values()) if metadata is not None else []
        for repository in definition.repositories.values():
            tables += getattr(repository, "tables", ())
        for table in tables:
            columns = tuple(each.name for each in table.columns)
            key = tuple(each.name for each in table.primary_key.columns) or columns
            found[table.fullname] = Compared(table.fullname, key, columns, table=table)
    else:
        for repository in definition.repositories.values():
            if isinstance(repository, TableRepository):
                table_ = repository.table
                found[table_.name] = Compared(table_.name, (table_.id_column,), table_.columns, repository=repository)
    if not found:
        raise UsageError(
            f"service {definition.name} has no table that could be compared: give it tables=, or repositories="
        )
    return [found[name] for name in sorted(found)]


@asynccontextmanager
async def snapshot(store: Store, books: Books) -> AsyncIterator[Snapshot]:
    """While this is open, one state of the database. Raises StoreConflict, at its end, where the store cannot keep
    one and its rows have moved meanwhile: read them again."""
    if store.capabilities.sessions:
        async with store.reading() as session:
            yield await _in_session(session, books)
        return
    checkpoints = await books.checkpoints()
    letters = await books.letters(limit=2**31 - 1)

    async def rows(compared: Compared) -> AsyncIterator[Found]:
        async for found in _by_lookup(store, compared):
            yield found

    yield Snapshot(checkpoints, letters, rows)
    after = await books.checkpoints()
    if {each: found.revision for each, found in after.items()} != {
        each: found.revision for each, found in checkpoints.items()
    }:
        raise StoreConflict(f"{books.subscription}: rows have changed while they were read; read them again")


async def _in_session(session: AsyncSession, books: Books) -> Snapshot:
    from sqlalchemy import column, select, table

    async def own(kept: Any) -> Sequence[Any]:
        columns: list[Any] = [column(name) for name in kept.columns]
        return (await session.execute(select(*columns).select_from(table(kept.name)))).all()

    checkpoints = dict([books.in_row(row) for row in await own(CHECKPOINTS)])
    letters = [books.letter_in_row(row) for row in await own(LETTERS)]

    async def rows(compared: Compared) -> AsyncIterator[Found]:
        assert compared.table is not None
        at = [compared.columns.index(name) for name in compared.key]
        async for row in await session.stream(select(compared.table).execution_options(yield_per=_PAGE)):
            yield tuple(row[each] for each in at), dict(zip(compared.columns, row, strict=True))

    return Snapshot(checkpoints, letters, rows)


async def _by_lookup(store: Store, compared: Compared) -> AsyncIterator[Found]:
    assert compared.repository is not None
    kept = compared.repository.table
    lookup = next((each for each in kept.lookups if not each.equal), None)
    if lookup is None:
        raise UsageError(
            f"table {compared.name} cannot be read as a whole in this database: give its TableRepository a lookup of "
            f'all rows, lookups=[Lookup((), ("{kept.id_column}",)), ...]'
        )
    reader, after = store.rows(), ()
    places = [kept.columns.index(name) for name in lookup.order]
    id_at = kept.columns.index(kept.id_column)
    while True:
        page = await reader.find(kept, lookup, (), after=after, limit=_PAGE)
        for row in page:
            yield (row[id_at],), dict(zip(kept.columns, row, strict=True))
        if len(page) < _PAGE:
            return
        after = tuple(page[-1][each] for each in places)
