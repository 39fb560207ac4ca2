"""`ensue outbox`: what a service has published, sent or not."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.options import Json, Target
from ensue.cli.output import print_json, print_table, say
from ensue.operations.outbox import OutboxLine, outbox

app = typer.Typer(help="What a service has published, sent or not.", no_args_is_help=True)

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


def _row(record: OutboxLine) -> tuple[object, ...]:
    data = record.raw.decode(errors="replace")
    shown = data if len(data) <= _DATA_SHOWN else data[: _DATA_SHOWN - 3] + "..."
    where = f"{record.topic}/{record.partition}"
    state = "yes" if record.sent else "held" if record.held else "not yet"
    headers = record.headers
    return record.position, where, record.key, headers["type"], headers["id"], headers["time"], state, shown
