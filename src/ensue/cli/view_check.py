"""`ensue views check` and `ensue views at`: are the rows what follows from the events, and what were they at a time."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import msgspec
import typer

from ensue.adapters import make_broker, make_place, make_store
from ensue.app import Service
from ensue.cli.build_progress import Shown
from ensue.cli.completing import services_here
from ensue.cli.loading import load_service
from ensue.cli.options import Json
from ensue.cli.output import print_json, print_table, say
from ensue.engine.agreement import Folds, Verdict
from ensue.engine.snapshot import Found
from ensue.errors import UsageError
from ensue.operations.opening import opened
from ensue.texts import logger
from ensue.view import View
from ensue.views.progress import Progress

_TARGET = typer.Argument(
    metavar="SERVICE",
    autocompletion=services_here,
    help="MODULE:NAME of a View, or of a service that publishes nothing",
)
_SCRATCH = typer.Option(metavar="URL", help="Database beside which it is folded", show_default="the view's own")
#: So many rows of each table are shown to people.
_SHOWN = 100


@asynccontextmanager
async def folds_of(service: Service, scratch: str) -> AsyncIterator[Folds]:
    """scratch: the URL of another database. The places where it is folded are removed at the end."""
    settings = service.settings()
    name = service.view if isinstance(service, View) else service.name
    chance = secrets.token_hex(4)  # two who check at once each have their own
    places = [make_place(scratch or settings.database, name, f"check_{chance}_{number}") for number in (0, 1)]
    async with opened(service, broker=True) as access:
        access.need_broker()
    with Shown(f"{service.name}: folding") as shown:
        folds = Folds(
            service,
            service.make_store,
            lambda number: make_store(places[number].url, places[number].service),
            lambda: make_broker(settings.broker),
            settings,
            service.tables,
            lambda done, total: shown.show(Progress(done, total, asyncio.get_running_loop().time()), ["the rest"]),
        )
        try:
            for each in places:
                await each.make()
            yield folds
        finally:
            for each in places:
                await each.remove()


def check(
    service: Annotated[str, _TARGET],
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE.COLUMN", help="What no event decides; a table's name leaves it out; repeatable"),
    ] = None,
    scratch: Annotated[str, _SCRATCH] = "",
    json: Json = False,
) -> None:
    """Compare the rows with the fold of their events, while the view goes on. Exit status 1 when they differ.

    All events are read from the log's beginning and folded into a scratch place, up to exactly where the view was. What
    differs is compared row by row, after a second fold that tells columns which a clock or chance decides.
    """
    definition = load_service(service)

    async def look() -> Verdict:
        async with folds_of(definition, scratch) as folds:
            return await folds.check(ignore or ())

    with _quietly():
        verdict = asyncio.run(look())
    if json:
        print_json({"agrees": verdict.agrees, **msgspec.to_builtins(verdict, enc_hook=str)})
    else:
        _say(definition.name, verdict)
    if not verdict.agrees:
        sys.exit(1)


@contextmanager
def _quietly() -> Iterator[None]:
    """A fold tries a message that comes before its row again, which is no news to who asked for the outcome."""
    log = logger("ensue")
    before = log.level
    log.setLevel("ERROR")
    try:
        yield
    finally:
        log.setLevel(before)  # whoever called this has other things to hear of


def _say(name: str, verdict: Verdict) -> None:
    counted = ", ".join(f"{count} in {table}" for table, count in verdict.rows.items())
    for each in verdict.differences[:_SHOWN]:
        say(str(each))
    if len(verdict.differences) > _SHOWN:
        say(f"and {len(verdict.differences) - _SHOWN} more (--json has all)")
    for column in verdict.unsteady:
        say(
            f"{column}: two folds of the same events come to two values, so a clock or chance decides it: take it from "
            f"the event, or leave it out with --ignore {column}"
        )
    if verdict.set_aside:
        say(f"{verdict.set_aside} dead letters have taken no effect, and are left out: ensue dead-letters list")
    if verdict.agrees:
        say(f"{name}: all rows follow from the events ({counted})")
    else:
        differ = "1 row differs" if len(verdict.differences) == 1 else f"{len(verdict.differences)} rows differ"
        say(f"{name}: {differ} from what follows from the events ({counted})")


def at(
    service: Annotated[str, _TARGET],
    time: Annotated[str, typer.Argument(metavar="TIME", help="With its zone: 2026-11-27T17:00:00Z")],
    key: Annotated[str | None, typer.Option(help="Of the events of one key alone, a customer's, say")] = None,
    scratch: Annotated[str, _SCRATCH] = "",
    json: Json = False,
) -> None:
    """Show the rows as they follow from the events up to a time, by the clocks of the services that published them."""
    moment = moment_of(time)
    definition = load_service(service)

    async def look() -> dict[str, list[Found]]:
        async with folds_of(definition, scratch) as folds:
            await folds.at(moment, key)
            async with folds.folded() as (state, compared):
                return {each.name: [row async for row in state.rows(each)] for each in compared}

    with _quietly():
        found = asyncio.run(look())
    if json:
        tables = {name: [row for _, row in rows] for name, rows in found.items()}
        print_json({"at": time, "key": key, "tables": msgspec.to_builtins(tables, enc_hook=str)})
        return
    for name, rows in found.items():
        say(
            f"{name}: {'1 row' if len(rows) == 1 else f'{len(rows)} rows'}"
            + (f", the first {_SHOWN}" if len(rows) > _SHOWN else "")
        )
        if rows:
            print_table("", list(rows[0][1]), _shown(rows[:_SHOWN]))


def _shown(rows: Sequence[Found]) -> list[list[Any]]:
    return [["-" if value is None else value for value in row.values()] for _, row in rows]


def moment_of(text: str) -> float:
    """Seconds since the epoch. Raises UsageError.

    >>> moment_of("1970-01-01T00:01:00Z")
    60.0
    """
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time: write it as 2026-11-27T17:00:00Z") from None
    if found.tzinfo is None:
        raise UsageError(f"{text!r} is a time in no zone: write {found.isoformat()}Z, or another offset from UTC")
    return found.timestamp()
