"""`ensue timers`: the events that a service publishes later, and to take them back."""

from __future__ import annotations

from typing import Annotated

import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Json, Reason, Target, Yes
from ensue.cli.output import confirm, print_json, print_table, say
from ensue.operations import timers as operations
from ensue.operations.opening import Opened
from ensue.operations.timers import TimerLine
from ensue.texts import when

app = typer.Typer(help="Events that are published later: look, take back.", no_args_is_help=True)

_SHOWN_MAX = 10


@app.command("list")
def list_(
    service: Target,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Begin after this one")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many")] = 100,
    json: Json = False,
) -> None:
    """List what waits, in the order in which it is due; with the next run of each recurring step."""
    definition = load_service(service)

    timers, there = run_beside(definition, lambda access: operations.timers(access, after, limit))
    if json:
        print_json({"timers": timers, "total": there})
        return
    if not timers:
        say("nothing waits" if after is None else "nothing more")
        return
    columns = ("id", "due", "partition", "key", "type", "recurring step")
    print_table("", columns, [_row(each) for each in timers])
    if len(timers) == limit and there > limit:
        say(f"{there} in all; more: --after {timers[-1].id}")


@app.command()
def cancel(
    service: Target,
    timers: Annotated[list[str], typer.Argument(metavar="ID", help="As `ensue timers list` shows it")],
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Take events back that are not published yet: all of these, or none if one has gone out already."""
    definition = load_service(service)
    ids = list(dict.fromkeys(timers))
    who = deciding(by, reason)

    async def take_back(access: Opened) -> None:
        await operations.refuse_runs(access, ids)  # before anybody is asked
        some = f"{', '.join(ids[:_SHOWN_MAX])}{', ...' if len(ids) > _SHOWN_MAX else ''}"
        confirm(f"Take back {len(ids)} event(s) for good ({some})?", yes)
        for each in await operations.cancel(access, ids, who):
            say(f"timer {each.id}, key {each.key}: cancelled")

    run_beside(definition, take_back, target=service)


def _row(timer: TimerLine) -> tuple[object, ...]:
    where = f"{timer.topic}/{timer.partition}"
    return timer.id, when(timer.due_at), where, timer.key, timer.headers["type"], timer.recurring or "-"
