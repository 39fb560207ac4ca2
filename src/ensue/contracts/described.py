"""A message that services exchange, described: its names on the wire, its key, its schema."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ensue.command import CommandType
from ensue.contracts.defaults import settle
from ensue.contracts.of_msgspec import of_msgspec
from ensue.errors import UsageError
from ensue.event import EventType
from ensue.failure import Failure
from ensue.failure import _declared as _failures
from ensue.texts import said_by

Kind = Literal["event", "command", "reply", "failure"]


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of message, as one class has it."""

    name: str
    """What it is called among contracts: its type on the wire; of a reply, the command's and `.reply`; of a failure,
    which has no topic, `failure.` and its name."""
    kind: Kind
    topic: str
    """Where it is published; empty: it goes wherever an answer is wanted."""
    key: str
    """The field that keeps messages in order; empty: it is an answer."""
    version: int
    cls: str
    """`module:class`: who has the same one shares it, and is changed with it."""
    schema: dict[str, Any]
    """What its objects look like in JSON. Required is what has to be there to read one: a field with a default may be
    missing in what was written before it was added."""
    always: dict[str, Any]
    """The same, and required is what is always written now."""
    upcast: bool = False
    """It is an older version, which the class's upcasters read: how, no schema says, so it has none."""


class Contract(msgspec.Struct, frozen=True):
    """What one service writes and reads. A command, its reply and failures belong to the service that handles it."""

    service: str
    writes: list[Described]
    reads: list[Described]
    handles: list[str]
    """The commands that it reads: their schemas are its own to say."""
    silent: bool = False
    """It does not declare what it publishes, so it may publish anything."""


def of_message(spec: EventType[Any], *, older: bool = False) -> Described:
    """Describe an event or a command. older: as it is read by its upcasters."""
    schemas = ({}, {}) if older else schemas_of(spec.cls)
    return Described(
        name=spec.type,
        kind="command" if isinstance(spec, CommandType) else "event",
        topic=spec.topic,
        key=wire_name(spec.cls, spec.key_field),
        version=spec.version,
        cls=class_name(spec.cls),
        schema=schemas[0],
        always=schemas[1],
        upcast=older,
    )


def of_reply(spec: CommandType[Any]) -> list[Described]:
    """Describe the reply to a command; nothing where it has none but that it is done."""
    return [] if spec.reply is None else [_answer("reply", f"{spec.type}.reply", spec.version, spec.reply.cls)]


def of_failures() -> list[Described]:
    """Describe the failures that are declared in this process, but for Ensue's own: which command is answered by which
    of them, no declaration says."""
    return [
        _answer("failure", f"failure.{name}", 1, cls)
        for name, cls in sorted(_failures.items())
        if not cls.__module__.startswith("ensue.") and issubclass(cls, Failure)
    ]


def _answer(kind: Kind, name: str, version: int, cls: type) -> Described:
    schema, always = schemas_of(cls)
    return Described(
        name=name, kind=kind, topic="", key="", version=version, cls=class_name(cls), schema=schema, always=always
    )


def schemas_of(cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """What has to be there to read an object of a class, and what is always written of it.

    Raises UsageError for a class that has no schema: it names a class that is not there, or a type that has none.
    """
    try:
        if hasattr(cls, "model_validate_json"):
            from ensue.contracts.of_pydantic import of_pydantic

            return settle(dict(of_pydantic(cls, always=False))), settle(dict(of_pydantic(cls, always=True)))
        return settle(dict(of_msgspec(cls, always=False))), settle(dict(of_msgspec(cls, always=True)))
    except (NameError, TypeError, RuntimeError) as error:  # pydantic's own are RuntimeErrors and TypeErrors
        raise UsageError(
            f"{class_name(cls)} has no JSON Schema: {said_by(error)}. Declare its fields with types that JSON Schema "
            "can tell, at the head of a module"
        ) from error


def wire_name(cls: Any, field: str) -> str:
    """What a field is called in JSON."""
    if hasattr(cls, "__struct_encode_fields__"):
        return str(dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))[field])
    if hasattr(cls, "model_fields"):
        return str(cls.model_fields[field].serialization_alias or field)
    return field


def class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
