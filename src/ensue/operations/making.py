"""A service's tables: made where they are missing, and brought to this Ensue's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ensue.app import Service
from ensue.deciding import Deciding
from ensue.engine.books import Books
from ensue.engine.hallmark import hallmark_of
from ensue.operations.opening import upgrade
from ensue.ports import Store

if TYPE_CHECKING:
    from sqlalchemy import MetaData


class Made(NamedTuple):
    """own: how many tables the service declares. changed: whether anything was missing, or of an older schema."""

    source: str
    own: int
    changed: bool


async def make_tables(service: Service, by: Deciding) -> Made:
    """Make Ensue's tables, and those of the service's `tables=`, where they are missing.

    Where that changes something a row says who did it; it is written after the tables, which no database makes in a
    transaction with it. A run that finds everything there, as at each start of a container, leaves none.
    """
    await service.make_place()
    store = service.make_store()
    schema = await _schema_of(service, store)
    store = service.make_store()
    await store.open()
    try:
        await upgrade(service, store)
        if store.capabilities.publishes:
            # Made here, the key of its ids is not left to the first two sessions that publish, of which one would be
            # refused.
            await hallmark_of(store)
        tables = own_tables(service, store)
        missing = [] if tables is None else sorted(await store.create_tables(tables, dry_run=True))
        if tables is not None:
            await store.create_tables(tables)
        books = Books(store, service.name)
        now = (await books.numbers()).schema
        changed = bool(missing) or schema != now
        if changed:
            async with store.transaction() as transaction:
                before, after = {"schema": schema}, {"schema": now, "made": missing}
                await books.record(transaction, by, "db init", store.source, before, after)
        return Made(store.source, 0 if tables is None else len(tables.tables), changed)
    finally:
        await store.close()


async def _schema_of(service: Service, store: Store) -> int | None:
    """Of Ensue's tables in a store that is not open. None: they are not there."""
    try:
        if not await store.exists():
            return None
        await store.open()
        return (await Books(store, service.name).numbers()).schema
    finally:
        await store.close()


def own_tables(service: Service, store: Store) -> MetaData | None:
    """What the service declares, where there are tables at all: without sessions a table begins with its first row."""
    return service.tables if store.capabilities.sessions else None
