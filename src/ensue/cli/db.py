"""`ensue db`: make and check a service's tables, and begin a new epoch after a restore."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from ensue.addresses import shown
from ensue.app import Service
from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.move import move
from ensue.cli.operator import deciding
from ensue.cli.options import By, Reason, Target, Yes
from ensue.cli.output import confirm, say
from ensue.engine.books import Books
from ensue.engine.fits import check_entity_tables
from ensue.engine.schema import SCHEMA
from ensue.engine.upgrade import check_upgraded
from ensue.errors import UsageError
from ensue.integrations.sql_tables import SqlTables, sql_tables_of
from ensue.operations.epoch import begin_epoch, compared
from ensue.operations.making import make_tables, own_tables
from ensue.operations.opening import Opened, database_of, opened, refuse_living_workers

app = typer.Typer(help="A service's database: make it, check it, move it, begin a new epoch.", no_args_is_help=True)
app.command()(move)


@app.command()
def init(service: Target, by: By = "", reason: Reason = "") -> None:
    """Create Ensue's tables, and those of the service's `tables=`, where they are missing, and bring Ensue's to this
    Ensue's schema. Changes no table of yours. Of a View, in the place of the version that the code has, which is made
    first."""
    definition = load_service(service)
    made = asyncio.run(make_tables(definition, deciding(by, reason)))
    where = database_of(definition, definition.settings())
    say(f"{where}: Ensue's tables and {made.own} of {definition.name}'s own are there; source {made.source}")


@app.command()
def check(service: Target) -> None:
    """Check that Ensue's tables are there, whole and of this version, and what `tables=` and entities declare."""
    definition = load_service(service)

    async def look() -> tuple[str, Sequence[str], Sequence[str]]:
        expected = await _expected_tables(definition)
        async with opened(definition, any_tables=True) as access:
            store = access.store
            tables = own_tables(definition, store)
            ours = [] if expected is None else await store.create_tables(expected.metadata(), dry_run=True)
            if not ours:
                await check_upgraded(Books(store, definition.name, schema=SCHEMA))
            missing = [] if tables is None else await store.create_tables(tables, dry_run=True)
            if not (ours or missing) and store.capabilities.sessions:
                await check_entity_tables(definition, store, known=tables)
            return access.database_url, ours, missing

    url, ours, missing = asyncio.run(look())
    if ours:
        raise UsageError(
            f"{url} lacks {', '.join(ours)} of Ensue's own tables: somebody dropped or changed them. Bring them "
            "back from a copy (see `ensue db new-epoch`), or drop what begins with ensue_ and begin anew"
        )
    if missing:
        raise UsageError(
            f"{url} lacks {', '.join(missing)}. `ensue db init {service}` creates missing tables; "
            "missing columns want a migration (e.g. alembic)"
        )
    say(f"{url}: everything is there")


async def _expected_tables(definition: Service) -> SqlTables | None:
    """Ensue's tables in this kind of database, None where it has none. Raises UsageError that names them when they
    are not there."""
    url, service, store = definition.settings().database, definition.name, definition.make_store()
    expected = sql_tables_of(url, service)
    try:
        if expected is not None and not await store.exists():
            raise UsageError(
                f"service {service} has no database at {shown(url)}, or not Ensue's tables in it "
                f"({', '.join(expected.names)}): `ensue db init` makes them, or a migration does "
                "(ensue.integrations.alembic)"
            )
    finally:
        await store.close()
    return expected


@app.command()
def new_epoch(
    service: Target,
    published_through: Annotated[
        int | None, typer.Option(metavar="POSITION", help="When the log cannot tell: the last position that went out")
    ] = None,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Although a worker seems to live, or none is needed")] = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Let a database that was restored from an older copy publish again, under a new source.

    What the log holds of it stays as it is; what it has written since the copy goes out under the new source, so that
    no subscriber takes it for a duplicate. Stop the service first. Refused when log and database agree.
    """
    definition = load_service(service)
    who = deciding(by, reason)

    async def begin(access: Opened) -> None:
        access.need_broker()
        await refuse_living_workers(access, force)
        report = await compared(access, published_through)
        say(*report.lines)
        if not (report.needed or force or published_through is not None):
            raise UsageError(
                f"{definition.name} needs no new epoch: the log holds nothing that its database did not write. "
                "--force: I want one all the same"
            )
        confirm("Begin the new epoch?", yes)
        source = await begin_epoch(access, report.published, who)
        say(f"{definition.name} is {source} now; run it again: ensue run {service}")

    run_beside(definition, begin, broker=True)
