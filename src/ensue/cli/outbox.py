"""`ensue outbox`: what a service has published, sent or not."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Json, Reason, Target, Yes
from ensue.cli.output import confirm, print_json, print_table, say
from ensue.operations import outbox as operations
from ensue.operations.opening import Opened
from ensue.operations.outbox import OutboxLine, outbox

app = typer.Typer(help="What a service has published, sent or not: look, withdraw.", no_args_is_help=True)

_DATA_SHOWN = 60


@app.command("list")
def list_(
    service: Target,
    after: Annotated[int, typer.Option(min=0, metavar="POSITION", help="Begin after this position")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many")] = 100,
    unsent: Annotated[bool, typer.Option("--unsent", help="Only what is not known to be in the log")] = False,
    json: Json = False,
) -> None:
    """List records in the order in which they are sent. Old ones are gone after the retention."""
    definition = load_service(service)

    page = run_beside(definition, lambda access: outbox(access, after, limit, unsent=unsent))
    records = page.records
    if json:
        shown = msgspec.to_builtins(page)
        for each in shown["records"]:
            del each["raw"]
        print_json(shown)
        return
    if not records:
        say("nothing unsent" if unsent else "no records")
        return
    columns = ("position#", "partition", "key", "type", "id", "time", "sent", "data")
    print_table("", columns, [_row(each) for each in records])
    if records[-1].position < page.head:
        say(f"more: --after {records[-1].position}")


@app.command()
def withdraw(
    service: Target,
    message: Annotated[str, typer.Argument(metavar="ID", help="Message id of the event, as `ensue status` shows it")],
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Give up an event that the broker refuses, so that those behind it in its partition follow. Nobody will ever get
    it: raise the broker's limit instead, if you can. What waits for an answer to it, a saga say, goes on as if none
    came."""
    definition = load_service(service)
    who = deciding(by, reason)

    async def give_up(access: Opened) -> None:
        shown = await operations.refused(access, message)
        place = f"{shown.topic}/{shown.partition}, position {shown.position}"
        confirm(f"{place}: {shown.type}, which the broker refuses ({shown.reason}). Withdraw it for good?", yes)
        found = await operations.withdraw(access, message, who)
        say(
            f"{found.type} with id {found.id} is withdrawn: what waits behind it in {found.topic}/{found.partition} "
            "goes out when the relay tries again, within some seconds"
        )

    run_beside(definition, give_up, target=service)


def _row(record: OutboxLine) -> tuple[object, ...]:
    data = record.raw.decode(errors="replace")
    shown = data if len(data) <= _DATA_SHOWN else data[: _DATA_SHOWN - 3] + "..."
    where = f"{record.topic}/{record.partition}"
    state = "withdrawn" if record.withdrawn else "yes" if record.sent else "held" if record.held else "not yet"
    headers = record.headers
    return record.position, where, record.key, headers["type"], headers["id"], headers["time"], state, shown
