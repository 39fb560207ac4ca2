"""`ensue dead-letters`: what was set aside, why, what waits behind it; and to try it again or to give it up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
import typer

from ensue.cli.loading import load_service
from ensue.cli.output import confirm, json_line, print_json, print_lines, print_table, read_json, say, shown_data, when
from ensue.codec import decode_envelope
from ensue.engine.books import Books
from ensue.engine.decisions import Decided, found_letter
from ensue.engine.discarding import give_up
from ensue.engine.worker import is_gone
from ensue.errors import BadMessage, CheckpointConflict, UsageError
from ensue.message import DeadLetter, DeadLetterState
from ensue.operations.opening import Opened, dispatcher_of, opened
from ensue.plan import queue_of

app = typer.Typer(help="Messages set aside after their last attempt: look, try again, give up.", no_args_is_help=True)

_TARGET = typer.Argument(metavar="SERVICE", help="MODULE:NAME")
_JSON = typer.Option("--json", help="For a machine")
#: What holds something back. A record of what was discarded is shown only when asked for.
_DONE_WITH = (DeadLetterState.DISCARDED, DeadLetterState.REFUSED)
_HOLDING = tuple(state for state in DeadLetterState if state not in _DONE_WITH)

#: More letters than these are listed a line each, as they are read.
_TABLE_MAX = 200
#: Deleted in one transaction.
_PURGED_AT_ONCE = 500


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

    async def look() -> None:
        async with opened(definition) as access:
            totals = await access.books.letter_totals()
            there = sum(count for state, count in totals.items() if state in states)
            async with aclosing(access.books.letters_by_time(states)) as letters:
                await _print(letters, limit, there, json=json)

    asyncio.run(look())


async def _print(letters: AsyncIterator[DeadLetter], limit: int, there: int, *, json: bool) -> None:
    """What is long is written as it is read, a line a letter: nothing of it is kept, and no column waits for all."""
    seen = 0
    rows: list[tuple[object, ...]] = []
    if json:
        print('{"letters": [')
    async for each in letters:
        seen += 1
        if json:
            print((", " if seen > 1 else "  ") + json_line(_summary(each)))
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
    """Let letters be tried again, with all their attempts; what waits behind them follows in order.

    With --all, what somebody else decides meanwhile is passed over.
    """
    _decide(service, letters or [], all_, DeadLetterState.RELEASED, yes=True)


@app.command()
def discard(
    service: Annotated[str, _TARGET],
    letters: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every letter that is dead")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Give letters up: they stay as a record, take no effect, and what waits behind them goes on.

    Whoever waits for the answer to a command that is given up gets the failure Discarded.
    """
    _decide(service, letters or [], all_, DeadLetterState.DISCARDED, yes=yes)


def _decide(service: str, ids: list[str], all_: bool, state: DeadLetterState, *, yes: bool) -> None:
    if bool(ids) == all_:
        raise UsageError("say which: one or several ids (see `ensue dead-letters list`), or --all")

    definition = load_service(service)
    releasing = state is DeadLetterState.RELEASED

    async def decide() -> None:
        async with opened(definition) as access:
            books = access.books
            letters = [await _get(books, each) for each in ids]
            garbage = [each for each in letters if releasing and _is_garbage(each)]
            if garbage:
                raise UsageError(
                    f"dead letter {garbage[0].id} is no message ({garbage[0].error}): no handler can take it, so "
                    f"trying again cannot help. Give it up: ensue dead-letters discard {service} {garbage[0].id}"
                )
            there = len(ids) or (await books.letter_totals()).get(DeadLetterState.DEAD, 0)
            if there and not releasing:
                some = f" ({', '.join(ids[:10])}{', ...' if len(ids) > 10 else ''})" if ids else ""
                confirm(f"Give up {there} message(s) for good{some}?", yes)
            decide_on = await _decision(access, state)
            if ids:
                for each in letters:
                    await decide_on(each.id)
                    say(f"dead letter {each.id}, key {each.key}: {state.value}")
                decided = len(ids)
            else:
                decided = await _decide_all(books, state, decide_on)
            if decided and all(map(is_gone, (await books.leases()).workers)):
                say(f"No worker of {definition.name} lives: it takes effect when one runs (ensue run {service})")

    asyncio.run(decide())


async def _decision(access: Opened, state: DeadLetterState) -> Callable[[str], Awaitable[DeadLetter]]:
    """What puts a letter into this state, by its id."""
    books = access.books
    if state is not DeadLetterState.DISCARDED or not access.store.capabilities.publishes:
        return lambda letter_id: books.decide(letter_id, state)
    dispatcher = await dispatcher_of(access)
    return lambda letter_id: give_up(books, dispatcher, letter_id)


async def _decide_all(books: Books, state: DeadLetterState, decide_on: Callable[[str], Awaitable[DeadLetter]]) -> int:
    """Decide on every letter that is dead, and return how many that were; others may do the same meanwhile."""
    decided = passed = garbage = 0
    async with aclosing(books.letters_by_time([DeadLetterState.DEAD])) as letters:
        async for each in letters:
            if state is DeadLetterState.RELEASED and _is_garbage(each):
                garbage += 1
                continue
            try:
                await decide_on(each.id)
            except (CheckpointConflict, Decided):
                passed += 1
            else:
                decided += 1
                say(f"dead letter {each.id}, key {each.key}: {state.value}")
    if garbage:
        say(f"{garbage} left as they are: no messages, they can only be discarded")
    if passed:
        say(f"{passed} passed over: somebody else has decided them meanwhile; {decided} {state.value} here")
    if not decided + passed + garbage:
        say("no dead letters")
    return decided


@app.command()
def purge(
    service: Annotated[str, _TARGET],
    older: Annotated[str, typer.Option(metavar="AGE", help="Set aside longer ago than this: 30d, 12h; 0d for all")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Delete discarded and refused letters with their data, for good. Every other letter stays: it may still take
    effect."""
    definition = load_service(service)
    age_s = _age_s(older)

    async def delete() -> int:
        async with opened(definition) as access:
            confirm(f"Delete the discarded and refused letters of {definition.name} that are older than {older}?", yes)
            before_s = await access.store.now() - age_s
            deleted = 0
            while count := await access.books.prune_letters(before_s, _PURGED_AT_ONCE):
                deleted += count
            return deleted

    say(f"{asyncio.run(delete())} deleted")


def _age_s(text: str) -> float:
    """
    >>> _age_s("30d"), _age_s("12h")
    (2592000.0, 43200.0)
    """
    found = re.fullmatch(r"(\d+)([dh])", text)
    if found is None:
        raise UsageError(f"--older {text!r}: expected a number of days or hours, such as 30d or 12h", found=text)
    return float(found[1]) * {"d": 86_400, "h": 3600}[found[2]]


async def _get(books: Books, letter_id: str) -> DeadLetter:
    return found_letter(letter_id, await books.letter(letter_id))


async def _behind(books: Books, letter: DeadLetter) -> list[str]:
    """Ids of the letters that this one holds back."""
    if _is_garbage(letter) or letter.state in (DeadLetterState.WAITING, DeadLetterState.DISCARDED):
        return []
    waiting = (await books.letter_totals()).get(DeadLetterState.WAITING, 0)
    letters = await books.letters(letter.partition, (DeadLetterState.WAITING,), waiting)
    return [each.id for each in letters if queue_of(each) == queue_of(letter)]


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


def short_reason(letter: DeadLetter) -> str:
    """Why it was set aside, in a line."""
    said = letter.error.partition("\n")[0]
    reason = f"{letter.error_type}: {said}" if letter.error_type else "waits behind its key's first"
    return reason if len(reason) <= 80 else reason[:77] + "..."


def _row(letter: DeadLetter) -> tuple[object, ...]:
    where = f"{letter.partition.topic}/{letter.partition.number}"
    kind = _headers(letter).get("type", "-")
    return (
        letter.id,
        letter.state.value,
        where,
        letter.key,
        kind,
        letter.attempts,
        when(letter.parked_at),
        short_reason(letter),
    )
