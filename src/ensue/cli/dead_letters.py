"""`ensue dead-letters`: what was set aside, why, what waits behind it; and to try it again or to give it up."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from ensue.cli.loading import load_service, opened
from ensue.cli.output import confirm, print_json, print_table, read_json, say, shown_data, when
from ensue.codec import decode_envelope
from ensue.engine.books import Books
from ensue.engine.decisions import found_letter
from ensue.engine.worker import is_gone
from ensue.errors import BadMessage, UsageError
from ensue.message import DeadLetter, DeadLetterState

app = typer.Typer(help="Messages set aside after their last attempt: look, try again, give up.", no_args_is_help=True)

_TARGET = typer.Argument(metavar="SERVICE", help="MODULE:NAME")
_JSON = typer.Option("--json", help="For a machine")
#: What holds something back. A record of what was discarded is shown only when asked for.
_DONE_WITH = (DeadLetterState.DISCARDED, DeadLetterState.REFUSED)
_HOLDING = tuple(state for state in DeadLetterState if state not in _DONE_WITH)


@app.command("list")
def list_(
    service: Annotated[str, _TARGET],
    state: Annotated[list[DeadLetterState] | None, typer.Option(help="Only letters in this state (may repeat)")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 100,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List what is set aside, in the order of setting aside; discarded and refused ones only with --state."""
    states = tuple(state) if state else _HOLDING
    definition = load_service(service)

    async def look() -> tuple[list[DeadLetter], int]:
        async with opened(definition) as access:
            totals = await access.books.letter_totals()
            there = sum(count for state, count in totals.items() if state in states)
            return await access.books.letters(None, states, limit), there

    letters, there = asyncio.run(look())
    if json:
        print_json({"letters": [_summary(each) for each in letters], "total": there})
        return
    if not letters:
        say("no dead letters")
        return
    columns = ("id", "state", "partition", "key", "type", "attempts#", "set aside", "error")
    print_table("", columns, [_row(each) for each in letters])
    if there > len(letters):
        say(f"{there - len(letters)} more: --limit {there}")


@app.command()
def show(
    service: Annotated[str, _TARGET],
    letter: Annotated[str, typer.Argument(metavar="ID")],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Show one letter: the reason, its headers and data, and which letters wait behind it."""
    definition = load_service(service)

    async def look() -> tuple[DeadLetter, list[str]]:
        async with opened(definition) as access:
            found = await _get(access.books, letter)
            return found, await _behind(access.books, found)

    found, behind = asyncio.run(look())
    if json:
        print_json(_summary(found) | {"headers": _headers(found), "data": read_json(found.data), "behind": behind})
        return
    say(f"dead letter {found.id}: {found.state.value}, set aside {when(found.parked_at)}, attempts {found.attempts}")
    sender = f"position {found.position} of {found.source}" if found.source else "no sender"
    say(f"  at       {found.partition}, offset {found.offset}, {sender}")
    say(f"  key      {found.key}")
    reason = f"{found.error_type}: {found.error}" if found.error_type else "waits behind its key's first"
    first, *more = reason.split("\n")
    say(f"  reason   {first}", *(f"         {line}" for line in more))
    if found.state is DeadLetterState.RETRYING:
        say(f"  next     {when(found.due_at)}")
    for name, value in _headers(found).items():
        say(f"  {name:<16} {value}")
    say(*shown_data(found.data).split("\n"))
    if behind:
        say(f"waiting behind it: {len(behind)} of the same key: {', '.join(behind)}")
    elif _is_garbage(found):
        say("it holds nothing back")
    else:
        say("nothing waits behind it")


@app.command()
def retry(
    service: Annotated[str, _TARGET],
    letters: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every letter that is dead")] = False,
) -> None:
    """Let letters be tried again, with all their attempts; what waits behind them follows in order."""
    _decide(service, letters or [], all_, DeadLetterState.RELEASED, yes=True)


@app.command()
def discard(
    service: Annotated[str, _TARGET],
    letters: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every letter that is dead")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Give letters up: they stay as a record, take no effect, and what waits behind them goes on."""
    _decide(service, letters or [], all_, DeadLetterState.DISCARDED, yes=yes)


def _decide(service: str, ids: list[str], all_: bool, state: DeadLetterState, *, yes: bool) -> None:
    if bool(ids) == all_:
        raise UsageError("say which: one or several ids (see `ensue dead-letters list`), or --all")

    definition = load_service(service)
    releasing = state is DeadLetterState.RELEASED

    async def decide() -> None:
        async with opened(definition) as access:
            books = access.books
            letters = [await _get(books, each) for each in ids] if ids else await _all_dead(books)
            garbage = [each for each in letters if releasing and _is_garbage(each)]
            if garbage and ids:
                raise UsageError(
                    f"dead letter {garbage[0].id} is no message ({garbage[0].error}): no handler can take it, so "
                    f"trying again cannot help. Give it up: ensue dead-letters discard {service} {garbage[0].id}"
                )
            decided = [each for each in letters if not (releasing and _is_garbage(each))]
            if decided and not releasing:
                some = ", ".join(each.id for each in decided[:10]) + (", ..." if len(decided) > 10 else "")
                confirm(f"Give up {len(decided)} message(s) for good ({some})?", yes)
            for each in decided:
                await books.decide(each.id, state)
                say(f"dead letter {each.id}, key {each.key}: {state.value}")
            if garbage:
                say(f"{len(garbage)} left as they are: no messages, they can only be discarded")
            if not letters:
                say("no dead letters")
            if decided and all(map(is_gone, (await books.leases()).workers)):
                say(f"No worker of {definition.name} lives: it takes effect when one runs (ensue run {service})")

    asyncio.run(decide())


async def _get(books: Books, letter_id: str) -> DeadLetter:
    return found_letter(letter_id, await books.letter(letter_id))


async def _all_dead(books: Books) -> list[DeadLetter]:
    dead = (await books.letter_totals()).get(DeadLetterState.DEAD, 0)
    return await books.letters(None, (DeadLetterState.DEAD,), dead)


async def _behind(books: Books, letter: DeadLetter) -> list[str]:
    """Ids of the letters that this one holds back."""
    if _is_garbage(letter) or letter.state in (DeadLetterState.WAITING, DeadLetterState.DISCARDED):
        return []
    waiting = (await books.letter_totals()).get(DeadLetterState.WAITING, 0)
    letters = await books.letters(letter.partition, (DeadLetterState.WAITING,), waiting)
    return [each.id for each in letters if (each.source, each.key) == (letter.source, letter.key)]


def _is_garbage(letter: DeadLetter) -> bool:
    return not letter.source and letter.error_type == "Garbage"


def _headers(letter: DeadLetter) -> dict[str, Any]:
    """The CloudEvents attributes, as far as they can be read."""
    if not letter.envelope:
        return {}
    try:
        envelope = decode_envelope(letter.envelope)
    except BadMessage as error:
        return {"unreadable": str(error)}
    known: dict[str, Any] = msgspec.to_builtins(envelope)
    extensions: dict[str, str] = known.pop("extensions", None) or {}
    return known | extensions


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "state": letter.state.value,
        "topic": letter.partition.topic,
        "partition": letter.partition.number,
        "offset": letter.offset,
        "source": letter.source,
        "position": letter.position,
        "key": letter.key,
        "type": _headers(letter).get("type", ""),
        "attempts": letter.attempts,
        "due_at": letter.due_at,
        "parked_at": letter.parked_at,
        "error_type": letter.error_type,
        "error": letter.error,
    }


def _row(letter: DeadLetter) -> tuple[object, ...]:
    said = letter.error.partition("\n")[0]
    reason = f"{letter.error_type}: {said}" if letter.error_type else "waits behind its key's first"
    reason = reason if len(reason) <= 80 else reason[:77] + "..."
    where = f"{letter.partition.topic}/{letter.partition.number}"
    kind = _headers(letter).get("type", "-")
    return letter.id, letter.state.value, where, letter.key, kind, letter.attempts, when(letter.parked_at), reason
