"""`ensue timers`: the events that a service publishes later, and to take them back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer

from ensue.cli.loading import load_service
from ensue.cli.output import confirm, print_json, print_table, say, when
from ensue.codec import decode_envelope
from ensue.engine.timers import place_of, timer_of
from ensue.errors import UsageError
from ensue.message import SAGA, Timer
from ensue.operations.opening import opened
from ensue.operations.readable import read_json
from ensue.ports import Row, RowReader
from ensue.tables import RECURRING, TIMERS

app = typer.Typer(help="Events that are published later: look, take back.", no_args_is_help=True)

_TARGET = typer.Argument(metavar="SERVICE", help="MODULE:NAME")
[_BY_TIME] = TIMERS.lookups
[_STEPS] = RECURRING.lookups
_STEPS_MAX = 10_000
_SHOWN_MAX = 10


@app.command("list")
def list_(
    service: Annotated[str, _TARGET],
    after: Annotated[str | None, typer.Option(metavar="ID", help="Begin after this one")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 100,
    json: Annotated[bool, typer.Option("--json", help="For a machine")] = False,
) -> None:
    """List what waits, in the order in which it is due; with the next run of each recurring step."""
    definition = load_service(service)

    async def look() -> tuple[Sequence[Timer], Mapping[str, str], int]:
        async with opened(definition) as access:
            reader = access.store.rows()
            place = () if after is None else await _place(reader, after)
            rows = await reader.find(TIMERS, _BY_TIME, (), after=place, limit=limit)
            left = await reader.count(TIMERS, _BY_TIME, ())
            return [timer_of(row) for row in rows], await _steps(reader), left

    timers, steps, there = asyncio.run(look())
    if json:
        print_json({"timers": [_summary(each, steps) for each in timers], "total": there})
        return
    if not timers:
        say("nothing waits" if after is None else "nothing more")
        return
    columns = ("id", "due", "partition", "key", "type", "recurring step")
    print_table("", columns, [_row(each, steps) for each in timers])
    if len(timers) == limit and there > limit:
        say(f"{there} in all; more: --after {timers[-1].id}")


@app.command()
def cancel(
    service: Annotated[str, _TARGET],
    timers: Annotated[list[str], typer.Argument(metavar="ID...")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Take events back that are not published yet: all of these, or none if one has gone out already."""
    definition = load_service(service)
    ids = list(dict.fromkeys(timers))

    async def take_back() -> None:
        async with opened(definition) as access:
            steps = await _steps(access.store.rows())
            if runs := [each for each in ids if each in steps]:
                raise UsageError(
                    f"timer {runs[0]} is the next run of the recurring step {steps[runs[0]]} of {definition.name}, and "
                    "would be armed anew: take the step out of the code, or change its schedule; nothing was cancelled"
                )
            some = f"{', '.join(ids[:_SHOWN_MAX])}{', ...' if len(ids) > _SHOWN_MAX else ''}"
            confirm(f"Take back {len(ids)} event(s) for good ({some})?", yes)
            async with access.store.transaction() as transaction:
                found = [timer_of(row) for row in await transaction.load_rows(TIMERS, ids)]
                if gone := [each for each in ids if each not in {timer.id for timer in found}]:
                    raise UsageError(
                        f"no timer {', '.join(gone[:_SHOWN_MAX])} of {definition.name}: it has gone out, was taken "
                        f"back, or never was (ensue timers list {service}); nothing was cancelled"
                    )
                if woken := [each for each in found if decode_envelope(each.envelope).type == SAGA]:
                    raise UsageError(
                        f"timer {woken[0].id} wakes the saga {woken[0].key} of {definition.name}, which would wait for "
                        f"ever: ensue sagas cancel {service} {woken[0].key} has it undone; nothing was cancelled"
                    )
                await transaction.delete_rows(TIMERS, ids)
            for each in sorted(found, key=lambda timer: ids.index(timer.id)):
                say(f"timer {each.id}, key {each.key}: cancelled")

    asyncio.run(take_back())


async def _place(reader: RowReader, timer: str) -> Sequence[Any]:
    rows: Sequence[Row] = await reader.get(TIMERS, [timer])
    if not rows:
        raise UsageError(f"--after {timer}: no such timer any more; begin anew, without --after")
    return place_of(rows[0])


async def _steps(reader: RowReader) -> Mapping[str, str]:
    """The recurring steps by the ids of their next runs."""
    return {row[2]: row[0] for row in await reader.find(RECURRING, _STEPS, (), limit=_STEPS_MAX)}


def _summary(timer: Timer, steps: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": timer.id,
        "due_at": timer.due_at,
        "topic": timer.topic,
        "partition": timer.partition,
        "key": timer.key,
        "recurring": steps.get(timer.id),
        "headers": msgspec.to_builtins(decode_envelope(timer.envelope)),
        "data": read_json(timer.data),
    }


def _row(timer: Timer, steps: Mapping[str, str]) -> tuple[object, ...]:
    where = f"{timer.topic}/{timer.partition}"
    kind = decode_envelope(timer.envelope).type
    return timer.id, when(timer.due_at), where, timer.key, kind, steps.get(timer.id, "-")
