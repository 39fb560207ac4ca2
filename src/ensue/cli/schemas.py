"""`ensue schemas export` and `check`: what services write, as files to commit, and whom a change of them breaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from ensue.cli.completing import services_here
from ensue.cli.contract_process import ask
from ensue.cli.options import Json
from ensue.cli.output import complain, print_json, say
from ensue.contracts.changes import changes
from ensue.contracts.contract import owned, writers
from ensue.contracts.described import Contract, Described
from ensue.contracts.files import file_name, read, write
from ensue.errors import UsageError
from ensue.operations.contracts import read_committed

app = typer.Typer(
    help="What services write and read, as JSON Schema: committed, and compared.", no_args_is_help=True
)  # fmt: skip

_SERVICES = typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, one or several")


@app.command()
def export(
    services: Annotated[list[str], _SERVICES],
    to: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Where the files are")] = Path("schemas"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; status 1 where a file is another")] = False,
) -> None:
    """Write a JSON Schema for each event, command, reply and failure of services: one file each, to be committed.

    The same declaration gives the same bytes. Files of what these services do not write, older versions among them, are
    left as they are: the log still holds what they describe.
    """
    contracts = contracts_of(services)
    known = {file_name(name): _bytes(to / file_name(name)) for name in _owned(contracts)}
    files = dict(_files(contracts, known))
    other = [name for name, data in files.items() if data != known[name]]
    if not check:
        _write(to, {name: files[name] for name in other})
        done = [f"{'written' if known[name] is None else 'written anew'}: {to / name}" for name in other]
        say(*done, f"{len(files) - len(other)} of {len(files)} in {to} were as the code says")
        return
    for name in other:
        complain(f"{to / name} {'is not there' if known[name] is None else 'is not what the code says'}")
    if other:
        complain(f"see what changed with `ensue schemas check`, and write them with `ensue schemas export --to {to}`")
        raise typer.Exit(1)
    say(f"{len(files)} in {to} are as the code says")


@app.command()
def check(
    services: Annotated[list[str], _SERVICES],
    against: Annotated[
        Path, typer.Option(metavar="DIRECTORY", help="The committed files, of `ensue schemas export`")
    ] = Path("schemas"),
    readers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE",
            autocompletion=services_here,
            help="Who reads what these write, and is not among them (may repeat)",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare what services write now with the committed schemas, and say which change breaks which known reader.

    A reader is a service that handles the message, among SERVICE... and --readers; it has to read what is written now
    and what the log holds. Where none is known, whoever reads by the committed schema stands for it. One line for each
    change, breaking or compatible; ends with status 1 when one is breaking.
    """
    targets = list(dict.fromkeys(services))
    found = contracts_of([*targets, *(each for each in readers or () if each not in targets)])
    written, others = found[: len(targets)], found[len(targets) :]
    count = len(_owned(written))
    lines = changes(read_committed(against, "--against"), written, others)
    if json:
        print_json({"changes": lines})
    else:
        say(*map(str, lines) if lines else (f"nothing has changed: {count} in {against}",))
    if any(each.breaking for each in lines):
        raise typer.Exit(1)


def contracts_of(targets: Iterable[str]) -> list[Contract]:
    """The contract of each service that is named. Raises UsageError."""
    return [each.contract for each in ask(list(dict.fromkeys(targets))) if each.contract is not None]


def warn_of_silent(contracts: Iterable[Contract]) -> None:
    """What a service publishes and does not declare is in no schema and in no document: say so."""
    for each in contracts:
        if each.silent:
            complain(
                f"warning: {each.service} does not declare what it publishes (publishes=[...]): of that, nothing is "
                "looked at"
            )


def _owned(contracts: list[Contract]) -> dict[str, Described]:
    """What they write. Raises UsageError where that is nothing."""
    found = owned(contracts)
    if found:
        warn_of_silent(contracts)
    else:
        names = ", ".join(each.service for each in contracts)
        raise UsageError(
            f"{names}: nothing is declared that is published, sent or answered, so there is no schema: name the "
            "events, Service(..., publishes=[...]); a service that only reads is named with --readers"
        )
    return found


def _files(contracts: list[Contract], known: Mapping[str, bytes | None]) -> Iterator[tuple[str, bytes]]:
    """What the files of their messages hold, by name. A file also names who writes its message and is not asked now, so
    that it is the same whether services are exported together or one after the other."""
    asked, found = {each.service for each in contracts}, writers(contracts)
    for name, each in owned(contracts).items():
        try:
            others = set(read(known[file_name(name)] or b"", "").services) - asked
        except UsageError:  # damaged, or not there: it is written anew
            others = set()
        yield file_name(name), write(each, found[name] | others if name in found else ())


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _write(directory: Path, files: dict[str, bytes]) -> None:
    try:
        directory.mkdir(exist_ok=True)
        for name, data in files.items():
            (directory / name).write_bytes(data)
    except OSError as error:
        raise UsageError(
            f"{error.filename or directory} cannot be written: {error.strerror}; expected a directory, "
            "or a name in one that is there"
        ) from error
