"""`ensue asyncapi`: the AsyncAPI document of services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensue.cli.completing import services_here
from ensue.cli.contract_process import ask
from ensue.cli.output import print_json, say
from ensue.cli.schemas import warn_of_silent
from ensue.contracts.asyncapi import asyncapi as document_of
from ensue.contracts.files import pretty
from ensue.errors import UsageError


def asyncapi(
    services: Annotated[
        list[str],
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, one or several"),
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Write one file for each there; else show the one of one service"),
    ] = None,
    version: Annotated[str, typer.Option("--service-version", metavar="VERSION", help="For info.version")] = "0.1.0",
) -> None:
    """Write the AsyncAPI 3.1 document of each service: its topics, what it sends and receives, schemas and headers.

    Headers are named as the log has them that the service is configured for (ENSUE_BROKER).
    """
    targets = list(dict.fromkeys(services))
    if to is None and len(targets) > 1:
        raise UsageError(f"{len(targets)} services have as many documents: say where to, with --to DIRECTORY")
    answers = ask(targets, log=True)
    warn_of_silent(each.contract for each in answers if each.contract is not None)
    documents = {
        each.contract.service: document_of(each.contract, scheme=each.scheme, version=version)
        for each in answers
        if each.contract is not None
    }
    if to is None:
        [document] = documents.values()
        print_json(document)
        return
    for name, document in documents.items():
        path = to / f"{name}.asyncapi.json"
        try:
            to.mkdir(exist_ok=True)
            path.write_bytes(pretty(document))
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        say(f"written: {path}")
