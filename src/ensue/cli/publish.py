"""`ensue publish`: one event of a service, from outside of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ensue.app import Service
from ensue.cli.completing import services_here
from ensue.cli.loading import load_service
from ensue.cli.operator import BY, REASON, deciding
from ensue.cli.output import confirm, print_json, say, shown_data
from ensue.engine.publishing import Published
from ensue.engine.worker import is_gone
from ensue.errors import BadMessage, UsageError
from ensue.event import EventType, declared_types, event_type
from ensue.operations.by_hand import unknown_fields
from ensue.operations.opening import opened
from ensue.operations.publishing import publish_event
from ensue.roundtrip import fields_of
from ensue.texts import said_by

_NAMED_MAX = 12


def publish(
    service: Annotated[
        str,
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, the one whose event it is"),
    ],
    type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Of the event, as topology shows it, or its class's name")
    ],
    data: Annotated[str, typer.Argument(metavar="DATA", help="JSON; @FILE: of that file; -: of standard input")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    by: Annotated[str, BY] = "",
    reason: Annotated[str, REASON] = "",
    json: Annotated[bool, typer.Option("--json", help="For a machine")] = False,
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
    spec = _spec(definition, type)
    event = read_event(spec, _text(data))
    who = deciding(by, reason)

    async def write() -> tuple[Published, bool]:
        async with opened(definition) as access:
            if not json:
                say(
                    f"{spec.type}, {spec.key_field} {spec.key_of(event)}, by {definition.name} at {access.database_url}"
                )
                say(*shown_data(spec.write(event)).split("\n"))
            confirm("Publish it?", yes)
            done = await publish_event(access, event, who)
            return done, all(map(is_gone, (await access.books.leases()).workers))

    done, idle = asyncio.run(write())
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


def _spec(service: Service, asked: str) -> EventType[Any]:
    """Which of the types that the service publishes is meant. Raises UsageError, which lists them, for none or two."""
    own: Sequence[EventType[Any]] = (
        declared_types() if service.publishes is None else [event_type(cls) for cls in service.publishes]
    )
    found = [each for each in own if each.type == asked] or [
        each for each in own if asked in (each.cls.__name__, each.name)
    ]
    if len(found) == 1:
        return found[0]
    types = sorted(each.type for each in found or own)
    listed = ", ".join(types[:_NAMED_MAX]) + (", ..." if len(types) > _NAMED_MAX else "")
    if found:
        raise UsageError(f"{asked} may be {listed}: say which")
    raise UsageError(f"service {service.name} does not publish {asked}; it publishes {listed or 'nothing'}")


def _text(data: str) -> bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise UsageError(f"{data[1:]} cannot be read: {error.strerror}") from error


def read_event(spec: EventType[Any], data: bytes) -> Any:
    """Return the event that JSON data describes. Raises UsageError, which names the field, for what does not fit its
    class, and for a field that the class does not have: by hand that is a slip of the pen, not a newer version."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the data for {spec.type} is no JSON: {error}") from error
    try:
        event = spec.read(data)
    except BadMessage as error:
        why = said_by(error.__cause__)
        raise UsageError(f"the data does not fit {spec.cls.__qualname__} ({spec.type}): {why}") from error
    if unknown := unknown_fields(spec, event, data):
        raise UsageError(
            f"{spec.cls.__qualname__} ({spec.type}) has no field {', '.join(unknown)}; it has "
            f"{', '.join(sorted(fields_of(spec.cls)))}"
        )
    return event
