"""`ensue db move`: what Ensue keeps of a service goes into another database, which goes on as the same source."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ensue.adapters import make_store
from ensue.addresses import shown, usual
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Reason, Target, Yes
from ensue.cli.output import confirm, say
from ensue.config import database_variable
from ensue.errors import UsageError
from ensue.operations.moving import move_database
from ensue.operations.opening import opened, refuse_living_workers, upgrade
from ensue.ports import Store

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def move(
    service: Target,
    to: Annotated[str, typer.Option(metavar="URL", help="The new database, which is there and has no outbox yet")],
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Although a worker seems to live")] = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Copy outbox, checkpoints and dead letters into another database: SQLite, PostgreSQL or MariaDB.

    Stop the service first, and copy its own tables with a tool of your choice. The old database is only read; never
    start the service on it again.
    """
    definition = load_service(service)
    url = usual(to)
    who = deciding(by, reason)

    async def copy() -> None:
        async with opened(definition) as access:
            await refuse_living_workers(access, force)
            target = make_store(url, definition.name)
            await target.open()
            try:
                await upgrade(definition, target)
                if definition.tables is not None:
                    await _check_own_rows(definition.tables, access.store, target, shown(url))
                say(f"{definition.name} moves from {access.database_url} to {shown(url)}")
                confirm("Is the service stopped, everywhere?", yes)
                moved = await move_database(access, target, url, who)
            finally:
                await target.close()
        say(
            f"{moved.source}: {moved.records} record(s) of the outbox ({moved.unsent} not known to be sent), "
            f"{moved.checkpoints} checkpoint(s), {moved.letters} dead letter(s)",
            f"Set {database_variable(definition.name)} to the new URL, and start the service. Never start it on the "
            "old database again",
        )

    asyncio.run(copy())


async def _check_own_rows(tables: MetaData, origin: Store, target: Store, place: str) -> None:
    """Raise UsageError when the service's own tables are not in the new database, or have fewer or more rows there."""
    from sqlalchemy import func, select

    missing = await target.create_tables(tables, dry_run=True)
    if missing:
        raise UsageError(f"{place} lacks {', '.join(missing)}: make your own tables there and copy their rows first")
    for table in tables.sorted_tables:
        query = select(func.count()).select_from(table)
        async with origin.reading() as old, target.reading() as new:
            expected, found = await old.scalar(query), await new.scalar(query)
        if found != expected:
            raise UsageError(
                f"{place}: table {table.fullname} has {found} rows, expected {expected} as in the old database: copy "
                "your own tables first",
                expected=expected,
                found=found,
            )
