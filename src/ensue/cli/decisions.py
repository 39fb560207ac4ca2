"""`ensue decisions`: who decided what, and why."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer

from ensue.cli.loading import load_service
from ensue.cli.options import Json, Target
from ensue.cli.output import json_line, print_json, print_table, say
from ensue.deciding import Decision
from ensue.errors import UsageError
from ensue.operations import decisions
from ensue.texts import when

app = typer.Typer(help="What people have decided: who, what, from where, and why.", no_args_is_help=True)

_COLUMNS = ("decided", "by", "from", "action", "target", "reason", "before", "after")
#: Of what was and what is, in a table.
_CHARS_MAX = 60


@app.command("list")
def list_(
    service: Target,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="So many of the last ones")] = 100,
    json: Json = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="All of them as JSON lines, to be kept elsewhere")] = False,
) -> None:
    """List the last decisions, in the order in which they were taken. They are never pruned."""
    if json and jsonl:
        raise UsageError("--json and --jsonl: give one of them")
    definition = load_service(service)

    async def export() -> None:
        async with decisions.opened_decisions(definition) as books, aclosing(decisions.decisions(books)) as found:
            async for each in found:
                print(json_line(each))

    async def look() -> tuple[list[Decision], bool]:
        async with decisions.opened_decisions(definition) as books:
            return await decisions.newest(books, limit)

    if jsonl:
        asyncio.run(export())
        return
    last, more = asyncio.run(look())
    if json:
        print_json({"decisions": last, "total": None if more else len(last)})
    elif not last:
        say("no decisions")
    else:
        print_table("", _COLUMNS, [_row(each) for each in last])
        if more:
            say(f"more than {limit}: earlier ones with a higher --limit, all of them with --jsonl")


def _row(decision: Decision) -> tuple[object, ...]:
    return (
        when(decision.decided_at), decision.actor, decision.origin, decision.action, decision.target,
        decision.reason or "-", _shown(bytes(decision.before)), _shown(bytes(decision.after)),
    )  # fmt: skip


def _shown(state: bytes) -> str:
    text = state.decode()
    if text == "null":
        return "-"
    return text if len(text) <= _CHARS_MAX else text[: _CHARS_MAX - 3] + "..."
