"""`ensue sagas`: where the sagas of a service stand; to have a parked one go on, or one undone."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import Json, Target, Yes
from ensue.cli.output import confirm, print_json, print_table, say
from ensue.cli.saga_check import check_, export
from ensue.errors import UsageError
from ensue.failure import UnknownFailure
from ensue.failure import read as read_failure
from ensue.operations import sagas as operations
from ensue.operations.sagas import SagaLine
from ensue.saga.instance import LIVING, Status
from ensue.saga.journal import Refusal
from ensue.saga.skipping import Settled
from ensue.saga.wake import Ordered
from ensue.texts import when

app = typer.Typer(help="Sagas: look, have a parked one go on, have one undone.", no_args_is_help=True)

_ID = "As `ensue sagas list` shows it"

app.command("check")(check_)
app.command()(export)

_Who = Annotated[str, typer.Option("--by", "--who", help="Who decides; is kept with the saga", show_default="you")]
_Why = Annotated[str, typer.Option("--reason", "--why", help="Why; is kept with the saga")]


@app.command("list")
def list_(
    service: Target,
    status: Annotated[list[Status] | None, typer.Option(help="Only sagas of this status (may repeat)")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many")] = 100,
    json: Json = False,
) -> None:
    """List sagas, of each status the one first that was at work longest ago; ended ones only with --status."""
    statuses = tuple(status) if status else LIVING
    definition = load_service(service)

    found, there = run_beside(definition, lambda access: operations.sagas(access, statuses, limit))
    if json:
        print_json({"sagas": found, "total": there})
    elif not found:
        say("no sagas")
    else:
        columns = ("saga", "status", "version", "since", "at work", "waits for", "reason")
        print_table("", columns, [_row(each) for each in found])
        if there > len(found):
            say(f"{there - len(found)} more: --limit {there}")


@app.command()
def show(
    service: Target,
    saga: Annotated[str, typer.Argument(metavar="NAME:ID", help=_ID)],
    json: Json = False,
) -> None:
    """Show one saga: its request, its journal, what is to be undone, and why it is parked."""
    definition = load_service(service)

    found = run_beside(definition, lambda access: operations.instance(access, saga), target=service)
    if json:
        print_json(operations.saga_of(found))
        return
    say(f"saga {found.key}: {found.status}, version {found.version}, since {when(found.started_at)}")
    said = {"waits for": found.waits_for, "reason": found.reason, "request": _text(found.request)}
    for name, text in said.items():
        if text:
            first, *more = text.split("\n")
            say(f"  {name:<10} {first}", *(f"             {line}" for line in more))
    for each in found.journal:
        say(f"  journal    {msgspec.json.encode(each).decode()}")
    for undo in found.undos:
        say(
            f"  to undo    {undo.name} {bytes(undo.data).decode()}"
            + (f", {undo.attempts} failed" * bool(undo.attempts))
        )
    for mail in found.mailbox:
        say(f"  was told   {mail.type} {bytes(mail.data).decode()}")
    for decision in found.decisions:
        by = f" by {decision.who}" if decision.who else ""
        say(f"  decided    {when(decision.at)} {decision.what}{by}" + (f": {decision.why}" if decision.why else ""))


@app.command()
def retry(
    service: Target,
    sagas: Annotated[list[str], typer.Argument(metavar="NAME:ID", help=_ID)],
    why: _Why = "",
    who: _Who = "",
) -> None:
    """Have parked sagas go on from where they are, with the code that there is now: all of these, or none."""
    _order(service, sagas, "retry", who, why)


@app.command()
def cancel(
    service: Target,
    sagas: Annotated[list[str], typer.Argument(metavar="NAME:ID", help=_ID)],
    why: _Why = "",
    who: _Who = "",
    yes: Yes = False,
) -> None:
    """Have sagas that are not past their pivot undo what they have done: all of these, or none."""
    confirm(f"Have {len(sagas)} saga(s) undone ({', '.join(sagas[:10])}{', ...' if len(sagas) > 10 else ''})?", yes)
    _order(service, sagas, "cancel", who, why)


@app.command("skip")
def skip_(
    service: Target,
    saga: Annotated[str, typer.Argument(metavar="NAME:ID", help=_ID)],
    why: _Why,
    result: Annotated[
        str | None, typer.Option(metavar="JSON", help="What it came to; left out: it returns none")
    ] = None,
    failure: Annotated[str | None, typer.Option(metavar="NAME", help="It failed, and was not done")] = None,
    fields: Annotated[str, typer.Option(metavar="JSON", help="The failure's")] = "{}",
    operation: Annotated[int | None, typer.Option(help="Its number, where a saga is at several")] = None,
    who: _Who = "",
    yes: Yes = False,
) -> None:
    """Have a parked saga go on as if what it is at had come to this, because somebody has done it by hand, or knows
    that it cannot be done. An undo that fails counts as done."""
    settled, by = _settled(result, failure, fields), deciding(who, why)
    definition = load_service(service)
    confirm(f"Have what {saga} is at not be done by it any more?", yes)

    skipped = run_beside(definition, lambda access: operations.skip(access, saga, operation, settled, by))
    say(f"saga {saga}: {skipped} is skipped as soon as a worker reads it")


def _settled(result: str | None, failure: str | None, fields: str) -> Settled:
    if failure is None:
        return Settled(None if result is None else _json("--result", result))
    if result is not None:
        raise UsageError("give --result or --failure: it came to one of them")
    found = read_failure(failure, _json("--fields", fields))
    if isinstance(found, UnknownFailure):
        raise UsageError(f"--failure {failure} --fields {fields}: no failure of that name and these fields is declared")
    return Settled(failure=Refusal.of(found))


def _json(option: str, text: str) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UsageError(f"{option} {text[:100]} is no JSON: {error}") from error


def _order(service: str, sagas: list[str], what: Ordered, who: str, why: str) -> None:
    definition = load_service(service)
    by = deciding(who, why)

    run_beside(definition, lambda access: operations.order(access, list(dict.fromkeys(sagas)), what, by))
    done = "goes on" if what == "retry" else "is undone"
    for each in dict.fromkeys(sagas):
        say(f"saga {each}: {done} as soon as a worker reads it")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _row(saga: SagaLine) -> tuple[object, ...]:
    reason = saga.reason.partition("\n")[0]
    reason = reason if len(reason) <= 80 else reason[:77] + "..."
    return (
        saga.saga, saga.status.value, saga.version, when(saga.started_at), when(saga.updated_at), saga.waits_for,
        reason,
    )  # fmt: skip
