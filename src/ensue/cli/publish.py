"""`ensue publish`: one event of a service, from outside of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ensue.cli.beside import run_beside
from ensue.cli.completing import services_here
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Json, Reason, Yes
from ensue.cli.output import confirm, print_json, say, shown_data
from ensue.engine.publishing import Published
from ensue.engine.worker import is_gone
from ensue.errors import UsageError
from ensue.operations import publishing as operations
from ensue.operations.opening import Opened


def publish(
    service: Annotated[
        str,
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, the one whose event it is"),
    ],
    type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Of the event, as topology shows it, or its class's name")
    ],
    data: Annotated[str, typer.Argument(metavar="DATA", help="JSON; @FILE: of that file; -: of standard input")],
    yes: Yes = False,
    json: Json = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Publish one event of a service, or send a command, in a step of its own; the service need not run.

    TYPE is one that the service declares to publish. DATA has the fields of its class: what the class cannot read, and
    a field that it does not have, is refused with the field's name. Says the position in the outbox, and the
    correlation id, by which `ensue flow` follows it. It takes effect as any event of the service does, and cannot be
    taken back.
    """
    definition = load_service(service)
    if not yes and (json or data == "-"):
        raise UsageError("with --json, or the event on standard input, nobody is asked there: add --yes")
    spec = operations.spec_of(definition, type)
    event, who = operations.read_event(spec, _text(data)), deciding(by, reason)

    async def write(access: Opened) -> tuple[Published, bool]:
        if not json:
            say(f"{spec.type}, {spec.key_field} {spec.key_of(event)}, by {definition.name} at {access.database_url}")
            say(*shown_data(spec.write(event)).split("\n"))
        confirm("Publish it?", yes)
        done = await operations.publish(access, event, who)
        return done, all(map(is_gone, (await access.books.leases()).workers))

    done, idle = run_beside(definition, write)
    if json:
        print_json({"type": spec.type, **done._asdict()})
        return
    position = f"position {done.position}" if done.position else "without a position while an older transaction is open"
    say(
        f"published: {position}, {done.topic}/{done.partition}, id {done.id}",
        f"correlation id {done.correlation_id}",
    )
    if idle:
        say(f"No worker of {definition.name} lives: it is sent when one runs (ensue run {service})")


def _text(data: str) -> bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise UsageError(f"{data[1:]} cannot be read: {error.strerror}") from error
