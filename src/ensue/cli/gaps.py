"""`ensue gaps`: holes in what was received, and to accept a loss that nothing can heal."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Json, Reason, Target, Yes
from ensue.cli.output import confirm, print_json, print_table, say
from ensue.errors import UsageError
from ensue.message import Gap, GapState, Partition
from ensue.operations import gaps as operations
from ensue.operations.letters import anybody_works
from ensue.operations.opening import Opened
from ensue.texts import when

app = typer.Typer(help="Holes in what was received: look, and accept what is lost.", no_args_is_help=True)


@app.command("list")
def list_(service: Target, json: Json = False) -> None:
    """List the gaps. An open one is asked for again and closes by itself; a lost one waits for `ensue gaps accept`."""
    definition = load_service(service)

    gaps = run_beside(definition, _gaps)
    if json:
        print_json(
            {
                "gaps": [
                    {"topic": partition.topic, "partition": partition.number} | msgspec.to_builtins(gap)
                    for partition, gap in gaps
                ]
            }
        )
    elif gaps:
        columns = ("partition", "source", "state", "applied to#", "needs#", "lost through#", "since")
        print_table("", columns, [_row(*each) for each in gaps])
    else:
        say("no gaps")


@app.command()
def accept(
    service: Target,
    topic: Annotated[str | None, typer.Option(help="Of the gap")] = None,
    partition: Annotated[int | None, typer.Option(help="Of the gap: its number in the topic")] = None,
    source: Annotated[str | None, typer.Option(help="As `ensue gaps list` shows it")] = None,
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Go on without what is lost. Options say which gap; they can be left out when there is one only."""
    definition = load_service(service)
    if definition.is_view:
        raise UsageError(
            f"{definition.name} is a view, of which it is kept what it goes on without: ensue views accept-missing "
            f"{service}"
        )

    who = deciding(by, reason)

    async def decide(access: Opened) -> None:
        where, gap = _chosen(await _gaps(access), topic, partition, source)
        say(
            f"{where}: positions {gap.watermark + 1} to {gap.lost_through} of {gap.source} are gone from log and "
            f"outbox, at most {gap.lost_through - gap.watermark} events of this partition. They will never take "
            f"effect in {definition.name}."
        )
        confirm("Go on without them?", yes)
        watermark = await operations.accept(access, where, gap, who)
        say(f"accepted: {where} goes on after position {watermark} of {gap.source}")
        if not await anybody_works(access):
            say(f"No worker of {definition.name} lives: it goes on when one runs (ensue run {service})")

    run_beside(definition, decide)


@app.command()
def forget(
    service: Target,
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="Its number in the topic")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="As `ensue gaps list` shows it")],
    topic: Annotated[str | None, typer.Option(help="When the service reads several")] = None,
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Ask a source no more, which does not exist: somebody invented it. One that does exist shows its gap again."""
    definition = load_service(service)

    who = deciding(by, reason)

    async def decide(access: Opened) -> None:
        named = [
            (where, gap)
            for where, gap in await _gaps(access)
            if gap.source == source and where.number == partition and topic in (None, where.topic)
        ]
        if len(named) != 1:
            found = f"{len(named)} gaps: give --topic" if named else "no gap; `ensue gaps list` shows what there is"
            raise UsageError(f"{source} has {found} in partition {partition}", source=source)
        [(where, shown)] = named
        say(f"{where}: {source} is asked no more for what is missing. What it sends next may show the gap again.")
        confirm("Forget the gap?", yes)
        await operations.forget(access, where, source, who, shown)
        say(f"forgotten: {where} {source}")

    run_beside(definition, decide)


@app.command()
def rewind(
    service: Target,
    topic: Annotated[str, typer.Option(help="Where it was applied")],
    partition: Annotated[int, typer.Option(help="Its number in the topic")],
    source: Annotated[str, typer.Option(help="As the error in the log, or `ensue status`, names it")],
    to: Annotated[
        int | None, typer.Option(metavar="POSITION", help="When the log cannot tell: what was applied before")
    ] = None,
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Take back how far a source was applied, to before its last record, which it did not write.

    All that it has written since is skipped as long as that stands, and is sent again after this. Make sure that the
    source did not write that record (`ensue outbox list` of its service): if it did, events take effect twice.
    """
    definition = load_service(service)
    where = Partition(definition.name, topic, partition)

    who = deciding(by, reason)

    async def decide(access: Opened) -> None:
        ask_log = to is None and access.broker is not None
        found = await operations.applied(access, where, source, None if ask_log else 0)
        if to is None:
            access.need_broker()
        position = found.before if to is None else to
        watermark, last = found.watermark, found.message
        if position is None:
            raise UsageError(
                f"{where}: the log does not tell what was applied of {source} before position {watermark} "
                f"(message {last or 'unknown'}): give --to with the last position that it wrote and that was "
                "applied",
                source=source,
            )
        say(
            f"{where}: {source} is applied up to position {watermark} (message {last or 'unknown'}), and was "
            f"up to {position} before that. What it has written after {position} will be asked for and applied."
        )
        confirm(f"Is position {watermark} none of {source}'s?", yes)
        await operations.rewind(access, where, source, position, who, watermark)
        say(f"taken back: {where} goes on after position {position} of {source}")

    run_beside(definition, decide, broker=True)


async def _gaps(access: Opened) -> list[tuple[Partition, Gap]]:
    return [(each.where(access), each.gap) for each in await operations.gaps(access)]


def _chosen(
    gaps: list[tuple[Partition, Gap]], topic: str | None, number: int | None, source: str | None
) -> tuple[Partition, Gap]:
    """The one gap that the options name and that is lost. Raises UsageError when it is none, or several."""
    named = [
        (partition, gap)
        for partition, gap in gaps
        if topic in (None, partition.topic) and number in (None, partition.number) and source in (None, gap.source)
    ]
    lost = [each for each in named if each[1].state is GapState.LOST]
    if len(lost) == 1:
        return lost[0]
    if lost:
        which = "; ".join(
            f"--topic {partition.topic} --partition {partition.number} --source {gap.source}" for partition, gap in lost
        )
        raise UsageError(f"{len(lost)} gaps are lost, accept them one by one: {which}")
    if named:
        partition, gap = named[0]
        raise UsageError(
            f"{partition}: the gap in {gap.source} after position {gap.watermark} is open: it is asked for again and "
            "closes by itself when its source's relay runs. Only a lost one can be accepted"
        )
    raise UsageError("there is no such gap; `ensue gaps list` shows what there is")


def _row(partition: Partition, gap: Gap) -> tuple[object, ...]:
    where = f"{partition.topic}/{partition.number}"
    lost = gap.lost_through or "-"
    return where, gap.source, gap.state.value, gap.watermark, gap.needed, lost, when(gap.since)
