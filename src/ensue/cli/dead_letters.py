"""`ensue dead-letters`: what was set aside, why, what waits behind it; and to try it again or to give it up."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Json, Reason, Target, Yes
from ensue.cli.output import confirm, json_line, print_json, print_lines, print_table, say, shown_data
from ensue.deciding import Deciding
from ensue.engine.decisions import Decided
from ensue.errors import CheckpointConflict, UsageError
from ensue.message import DeadLetterState, Partition
from ensue.operations import editing, group_decisions, letter_decisions, letters
from ensue.operations.group_decisions import PATIENCE_S, End, Progress
from ensue.operations.groups import Group
from ensue.operations.letter_decisions import Outcome
from ensue.operations.letters import HOLDING, LetterLine, short_reason
from ensue.operations.opening import Opened, opened
from ensue.texts import when

app = typer.Typer(help="Messages set aside after their last attempt: look, try again, give up.", no_args_is_help=True)

_ID = "As `ensue dead-letters list` shows it"

_ALL = typer.Option("--all", help="Every letter that is dead")
_GROUP = typer.Option("--group", metavar="NAME", help="Every letter that is dead of this group")

#: More letters than these are listed a line each, as they are read.
_TABLE_MAX = 200


@app.command("list")
def list_(
    service: Target,
    state: Annotated[list[DeadLetterState] | None, typer.Option(help="Only letters in this state (may repeat)")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 100,
    json: Json = False,
) -> None:
    """List what is set aside, in the order of setting aside; discarded and refused ones only with --state."""
    states = tuple(state) if state else HOLDING
    definition = load_service(service)

    async def look(access: Opened) -> None:
        there = await letters.letter_count(access, states)
        async with aclosing(letters.letter_lines(access, states)) as lines:
            await _print(lines, limit, there, json=json)

    run_beside(definition, look)


async def _print(lines: AsyncIterator[LetterLine], limit: int, there: int, *, json: bool) -> None:
    """What is long is written as it is read, a line a letter: nothing of it is kept, and no column waits for all."""
    seen = 0
    rows: list[tuple[object, ...]] = []
    if json:
        print('{"letters": [')
    async for each in lines:
        seen += 1
        if json:
            print((", " if seen > 1 else "  ") + json_line(each))
        else:
            rows.append(_row(each))
        if len(rows) > _TABLE_MAX:
            print_lines(rows)
            rows.clear()
        if seen == limit:
            break
    if json:
        print(f'], "total": {there}}}')
        return
    if not seen:
        say("no dead letters")
    elif seen > _TABLE_MAX:
        print_lines(rows)
    else:
        print_table("", ("id", "state", "partition", "key", "type", "attempts#", "set aside", "error"), rows)
    if there > seen:
        say(f"{there - seen} more: --limit {there}")


@app.command()
def show(
    service: Target,
    letter: Annotated[str, typer.Argument(metavar="ID", help=_ID)],
    json: Json = False,
) -> None:
    """Show one letter: the reason, its headers and data, and which letters wait behind it."""
    definition = load_service(service)

    found = run_beside(definition, lambda access: letters.letter(access, letter))
    if json:
        shown: dict[str, Any] = msgspec.to_builtins(found)
        print_json({name: value for name, value in shown.items() if name != "raw"})
        return
    say(f"dead letter {found.id}: {found.state.value}, set aside {when(found.parked_at)}, attempts {found.attempts}")
    sender = f"position {found.position} of {found.source}" if found.source else "no sender"
    say(f"  at       {Partition(definition.name, found.topic, found.partition)}, offset {found.offset}, {sender}")
    say(f"  key      {found.key}")
    reason = f"{found.error_type}: {found.error}" if found.error_type else "waits behind its key's first"
    first, *more = reason.split("\n")
    say(f"  reason   {first}", *(f"         {line}" for line in more))
    if found.state is DeadLetterState.RETRYING:
        say(f"  next     {when(found.due_at)}")
    for name, value in found.headers.items():
        say(f"  {name:<16} {value}")
    say(*shown_data(found.raw).split("\n"))
    if found.behind:
        say(f"waiting behind it: {len(found.behind)} of the same key: {', '.join(found.behind)}")
    elif found.garbage:
        say("it holds nothing back")
    else:
        say("nothing waits behind it")


@app.command()
def retry(
    service: Target,
    letters: Annotated[list[str] | None, typer.Argument(metavar="ID", help=_ID)] = None,
    all_: Annotated[bool, _ALL] = False,
    group: Annotated[str, _GROUP] = "",
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Let letters be tried again, with all their attempts; what waits behind them follows in order.

    With --all at once, after a question, and what somebody else decides meanwhile is passed over. With --group in
    waves, of 1, 10, 100 and the rest: each waits until the one before took effect, and the first that fails again ends
    it, with exit status 1.
    """
    who = deciding(by, reason)
    if _which(letters, all_, group) == "group":
        _retry_group(service, group, who)
    else:
        _decide(service, letters or [], "", DeadLetterState.RELEASED, who, yes=yes)


@app.command()
def discard(
    service: Target,
    letters: Annotated[list[str] | None, typer.Argument(metavar="ID", help=_ID)] = None,
    all_: Annotated[bool, _ALL] = False,
    group: Annotated[str, _GROUP] = "",
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Give letters up: they stay as a record, take no effect, and what waits behind them goes on.

    Whoever waits for the answer to a command that is given up gets the failure Discarded.
    """
    _which(letters, all_, group)
    _decide(service, letters or [], group, DeadLetterState.DISCARDED, deciding(by, reason), yes=yes)


@app.command()
def edit(
    service: Target,
    letter: Annotated[str, typer.Argument(metavar="ID", help=_ID)],
    data: Annotated[str, typer.Option(metavar="@FILE", help="The new data: a file with JSON, or the JSON itself")],
    by: By = "",
    reason: Reason = "",
) -> None:
    """Give one letter other data, and let it be tried again. Refused is what the event's class cannot decode, and
    another key. The data that it had is kept with the decision. Other services have it as it was, and so has the log.
    """
    definition = load_service(service)
    who, new = deciding(by, reason), _data(data)

    async def change(access: Opened) -> bool:
        line = await editing.edit(access, letter, new, who)
        say(f"dead letter {line.id}, key {line.key}: edited, {line.state.value}")
        return await letters.anybody_works(access)

    if not run_beside(definition, change, target=service):
        say(f"No worker of {definition.name} lives: it takes effect when one runs (ensue run {service})")


def _data(text: str) -> bytes:
    if not text.startswith("@"):
        return os.fsencode(text)
    try:
        return Path(text[1:]).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"--data {text}: {text[1:]} cannot be read: {error.strerror}") from error


def _which(ids: list[str] | None, all_: bool, group: str) -> str:
    said = [name for name, given in (("ids", ids), ("all", all_), ("group", group)) if given]
    if len(said) != 1:
        raise UsageError(
            "say which: one or several ids (see `ensue dead-letters list`), or --all, or --group (see `ensue "
            "dead-letters groups`)"
        )
    return said[0]


def _decide(service: str, ids: list[str], group: str, state: DeadLetterState, by: Deciding, *, yes: bool) -> None:
    """ids: of the letters; none: all of the group, or all that are dead."""
    definition = load_service(service)

    async def decide(access: Opened) -> None:
        chosen = await letter_decisions.chosen(access, list(dict.fromkeys(ids)))
        if state is DeadLetterState.RELEASED:
            _refuse_garbage(service, chosen)
        known = None if ids else await _dead(access, group)
        there = len(ids) if known is None else len(known)
        if there and state is DeadLetterState.RELEASED and known is not None:
            confirm(f"Try {there} message(s) again, all at once?", yes)
        if there and state is DeadLetterState.DISCARDED:
            some = f" ({', '.join(ids[:10])}{', ...' if len(ids) > 10 else ''})" if ids else ""
            confirm(f"Give up {there} message(s) for good{some}?", yes)
        passed: list[str] = []
        if ids:
            one = await letter_decisions.decider(access, state, by)
            for each in chosen:
                try:
                    await one(each.id)
                except (CheckpointConflict, Decided) as error:
                    passed.append(str(error))
                else:
                    say(f"dead letter {each.id}, key {each.key}: {state.value}")
            decided = len(chosen) - len(passed)
        else:
            decided = await _decide_all(access, group, state, by, known or ())
        if decided and not await letters.anybody_works(access):
            say(f"No worker of {definition.name} lives: it takes effect when one runs (ensue run {service})")
        if passed:
            others = f"; {decided} of {len(chosen)} are {state.value}" if len(chosen) > 1 else ""
            raise UsageError("; ".join(passed) + others)

    run_beside(definition, decide)


def _refuse_garbage(service: str, chosen: list[LetterLine]) -> None:
    garbage = [each for each in chosen if each.garbage]
    if garbage:
        raise UsageError(
            f"dead letter {garbage[0].id} is no message ({garbage[0].error}): no handler can take it, so trying again "
            f"cannot help. Give it up: ensue dead-letters discard {service} {garbage[0].id}"
        )


async def _dead(access: Opened, group: str) -> Collection[str]:
    """What there is to be asked about: what dies while somebody thinks is not decided with it."""
    if not group:
        return await letter_decisions.dead_ids(access)
    return await group_decisions.group_ids(access, group)


async def _decide_all(access: Opened, group: str, state: DeadLetterState, by: Deciding, among: Collection[str]) -> int:
    """Decide on those letters with these ids that are dead, and return how many that were; others may do the same
    meanwhile."""
    counts: Counter[Outcome] = Counter()
    if group:
        chosen = group_decisions.discard_group(access, group, by, among)
    else:
        chosen = letter_decisions.decide_all(access, state, by, wanted=lambda letter: letter.id in among)
    async with aclosing(chosen) as all_of_them:
        async for each in all_of_them:
            counts[each.outcome] += 1
            if each.outcome is Outcome.DECIDED:
                say(f"dead letter {each.id}, key {each.key}: {state.value}")
    garbage, passed, decided = counts[Outcome.GARBAGE], counts[Outcome.PASSED], counts[Outcome.DECIDED]
    if garbage:
        say(f"{garbage} left as they are: no messages, they can only be discarded")
    if passed:
        say(f"{passed} passed over: somebody else has decided them meanwhile; {decided} {state.value} here")
    if not counts:
        say("no dead letters")
    return decided


def _retry_group(service: str, group: str, by: Deciding) -> None:
    definition = load_service(service)

    async def work() -> Progress | None:
        last: Progress | None = None
        async with (
            opened(definition, target=service) as access,
            aclosing(group_decisions.retry_group(access, group, by)) as waves,
        ):
            async for each in waves:
                last = each
                say(_line(each))
        return last

    last = asyncio.run(work())
    if last is None:
        say(f"group {group} has no letter that is dead: the service still tries those that are retrying")
    elif last.end is not End.THROUGH:
        why = (
            f"{', '.join(last.failed[:10])} failed again (ensue dead-letters show {service} {last.failed[0]})"
            if last.failed
            else f"nothing has happened to {last.pending} released letter(s) for {PATIENCE_S:g} s: does a worker have "
            f"their partitions? (ensue status {service})"
        )
        raise UsageError(f"group {group} is tried no further: {why}; {last.left} were not released")


def _line(each: Progress) -> str:
    counts = {
        "released": each.released, "behind them": each.behind, "took effect": each.settled, "pending": each.pending,
        "failed again": len(each.failed), "passed over": each.passed, "not released": each.left,
    }  # fmt: skip
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "took effect")
    return f"wave {each.wave} of {each.waves}: {said}"


@app.command()
def groups(
    service: Target,
    json: Json = False,
) -> None:
    """Show what has failed by its cause: the handler, the type of error, and the first line of your code in it."""
    definition = load_service(service)

    found = run_beside(definition, group_decisions.groups)
    if json:
        print_json({"groups": found})
    elif not found:
        say("no dead letters")
    else:
        columns = ("group", "handler", "error", "at", "dead#", "retrying#", "first", "last", "last one")
        print_table("", columns, [_group_row(each) for each in found])


def _group_row(group: Group) -> tuple[object, ...]:
    return (
        group.name, group.handler or "-", short_reason(group.error_type, group.error), group.place or "-", group.dead,
        group.retrying, when(group.first_at), when(group.last_at), group.last,
    )  # fmt: skip


@app.command()
def purge(
    service: Target,
    older: Annotated[str, typer.Option(metavar="AGE", help="Set aside longer ago than this: 30d, 12h; 0d for all")],
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Delete discarded and refused letters with their data, for good. Every other letter stays: it may still take
    effect."""
    definition = load_service(service)
    age_s = _age_s(older)
    who = deciding(by, reason)

    async def delete(access: Opened) -> int:
        confirm(f"Delete the discarded and refused letters of {definition.name} that are older than {older}?", yes)
        return await letter_decisions.purge(access, age_s, who)

    say(f"{run_beside(definition, delete)} deleted")


def _age_s(text: str) -> float:
    """
    >>> _age_s("30d"), _age_s("12h")
    (2592000.0, 43200.0)
    """
    found = re.fullmatch(r"(\d+)([dh])", text)
    if found is None:
        raise UsageError(f"--older {text!r}: expected a number of days or hours, such as 30d or 12h", found=text)
    return float(found[1]) * {"d": 86_400, "h": 3600}[found[2]]


def _row(letter: LetterLine) -> tuple[object, ...]:
    return (
        letter.id,
        letter.state.value,
        f"{letter.topic}/{letter.partition}",
        letter.key,
        letter.type or "-",
        letter.attempts,
        when(letter.parked_at),
        short_reason(letter.error_type, letter.error),
    )
