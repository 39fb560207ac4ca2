"""`ensue sagas check` and `export`: would those that have begun go on with this code? From a database, or a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ensue.app import Service
from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.options import Json, Target
from ensue.cli.output import print_json, say
from ensue.errors import UsageError
from ensue.operations.opening import Opened, opened
from ensue.saga.check import MISSING, Check, Group, read_row, write_row
from ensue.saga.instance import Instance, instance_of


def check_(
    service: Target,
    journals: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of `ensue sagas export`, and not of the database")
    ] = None,
    json: Json = False,
) -> None:
    """Replay the journal of each saga that has not ended with the code that there is now, and do nothing else: before
    a deployment. Says how many would go on, and how many would be parked, or wait for a version, with one id each.

    Ends with status 1 when there are any of the latter.
    """
    definition = load_service(service)
    named = {*(each.name for each in definition.locals.values()), *definition.outsides}
    check = Check(definition.sagas, named)
    if journals is None:
        asyncio.run(_add(definition, check))
    else:
        for each in _read(journals):
            check.add(each)
    found = check.groups
    if json:
        print_json({"groups": found})
    else:
        _print(found)
    if any(each.reason for each in found):
        raise typer.Exit(1)


def export(
    service: Target,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Is made, readable by its owner alone")],
) -> None:
    """Write the sagas that have not ended into a file, for `ensue sagas check` with --journals elsewhere: in a build.

    It has their requests and results, so it is as confidential as the database.
    """
    definition = load_service(service)

    async def write(access: Opened) -> int:
        try:
            made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise UsageError(f"{file} cannot be made: {error.strerror}; give a file that is not there yet") from error
        lines = 0
        try:
            with os.fdopen(made, "wb") as written:
                async for row in access.books.living_sagas():
                    written.write(write_row(row) + b"\n")
                    lines += 1
        except BaseException:
            file.unlink()
            raise
        return lines

    say(f"{run_beside(definition, write)} sagas in {file}")


async def _add(definition: Service, check: Check) -> None:
    async with opened(definition) as access:
        async for row in access.books.living_sagas():
            check.add(instance_of(row))


def _read(path: Path) -> Iterator[Instance]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield instance_of(read_row(line))
                except (ValueError, KeyError) as error:
                    raise UsageError(
                        f"{path}, line {number} is no saga ({type(error).__name__}: {error}): write the file with "
                        "`ensue sagas export`, of the same version of Ensue"
                    ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _print(found: list[Group]) -> None:
    say(f"fine: {sum(each.count for each in found if not each.reason)}")
    for each in found:
        what = f"{each.saga} v{each.version}"
        if each.reason == MISSING:
            say(f"no code: {each.count} of {what}, {each.example} for instance")
        elif each.reason:
            say(f"would park: {each.count} of {what}, {each.example} for instance: {each.reason}")
