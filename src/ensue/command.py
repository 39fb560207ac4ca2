"""Commands: what one service asks another to do, with a reply. On the wire a record like an event's.

A command goes to the topic `<service>.commands` of the service that handles it, keyed by one of its fields: those of
one key are done in order. See docs/adr/0040.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any, ClassVar, Generic, TypeVar, dataclass_transform

import msgspec

from ensue.errors import UsageError
from ensue.event import SPEC, E, EventMeta, EventType, Shape, attach, declared, event_type, is_event_class, shape_of
from ensue.failure import Failure
from ensue.formats import of_msgspec

R_co = TypeVar("R_co", covariant=True)

#: How services are named.
SERVICE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_REPLY = "__ensue_reply__"


def commands_of(service: str) -> str:
    """The topic of the commands that a service handles."""
    return f"{service}.commands"


@dataclasses.dataclass(frozen=True, slots=True)
class CommandType(EventType[E]):
    """A command class as the wire sees it. service: that handles it. reply: None: it has none but that it is done."""

    noun: ClassVar = "command"

    service: str
    reply: Shape[Any] | None


class CommandMeta(EventMeta):
    """Takes `service`, `key`, `type_name` and `version` out of the class line, and the reply out of the brackets."""

    noun = "command"
    ours = ("service", "key", "type_name", "version")

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        service: str | None = None,
        key: str | None = None,
        type_name: str | None = None,
        version: int = 1,
        **options: Any,
    ) -> CommandMeta:
        if "topic" in options:
            raise UsageError(
                f"command {name}: topic= in its class line; a command goes to the one service that handles it: "
                'write service="..."'
            )
        cls: Any = super().__new__(mcls, name, bases, namespace, **options)
        if bases[0] is msgspec.Struct:
            return cls  # type: ignore[no-any-return]  # Command itself
        for base in namespace.get("__orig_bases__", ()):
            if isinstance(typing.get_origin(base), CommandMeta):
                setattr(cls, _REPLY, _reply_in(base))
        if service is None and key is None:
            return cls  # type: ignore[no-any-return]  # an abstract base for the user's own commands
        if not isinstance(service, str) or not SERVICE_NAME.fullmatch(service):
            raise UsageError(
                f"command {name}: service={service!r:.60}, expected the name of the service that handles it: "
                "lower-case letters, digits, - and _, at most 63"
            )
        spec = declared(cls, commands_of(service), key, type_name, version, of_msgspec(cls), mcls.noun)
        values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(EventType)}
        attach(CommandType(**values, service=service, reply=_reply_of(cls, f"the reply to {spec.type}")))
        return cls  # type: ignore[no-any-return]


def _reply_in(base: Any) -> Any:
    """The reply that a base with brackets gives; a base of the user's own may have parameters for other things."""
    generic = typing.get_origin(base)
    said, parameters = getattr(generic, _REPLY, R_co), generic.__parameters__
    return typing.get_args(base)[parameters.index(said)] if said in parameters else said


def _reply_of(cls: type, called: str) -> Shape[Any] | None:
    reply = getattr(cls, _REPLY, ...)
    if reply is None or reply is type(None):
        return None
    if reply is ... or isinstance(reply, TypeVar):
        raise UsageError(
            f"command {cls.__qualname__} does not say what its reply is: write `class {cls.__name__}(Command[Reply], "
            "...)`, or Command[None] when there is nothing to say but that it is done"
        )
    if isinstance(reply, type) and issubclass(reply, Failure):
        raise UsageError(
            f"command {cls.__qualname__}: its reply is {reply.__qualname__}, a Failure, which any handler may answer "
            "instead of the reply: name the class of what is answered when it is done, or None"
        )
    if isinstance(reply, CommandMeta) or not isinstance(reply, type):
        shown = reply.__qualname__ if isinstance(reply, type) else str(reply)
        raise UsageError(
            f"command {cls.__qualname__}: its reply is {shown}, expected one class, declared above it: an event, a "
            "Struct, a dataclass or a pydantic model. What may be refused is said by Failure classes"
        )
    try:
        return shape_of(reply, called)
    except UsageError as error:
        raise UsageError(f"command {cls.__qualname__}, its reply: {error}") from error


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Command(msgspec.Struct, Generic[R_co], metaclass=CommandMeta, frozen=True, kw_only=True):
    """Base of commands: `class ReserveCredit(Command[CreditReserved], service="customers", key="customer_id")`.

    In the brackets: the class of the reply; None: nothing but that it is done. service: which one handles it. key: the
    field whose value keeps commands in order. type_name: the name on the wire, else the class's. version: raise it when
    the service's older processes could not read it. Raises UsageError at declaration, as for `Event`.
    """


def command_type(command: object) -> CommandType[Any]:
    """Return the CommandType of a command; raises UsageError for anything else, which says what to write."""
    cls = type(command)
    known = cls.__dict__.get(SPEC)
    if type(known) is CommandType:
        return known
    if isinstance(command, type):
        raise UsageError(f"{command.__qualname__} is a class: send an object of it, {command.__qualname__}(...)")
    if not is_event_class(cls):
        raise UsageError(
            f"a {cls.__qualname__} is no command: send an object of a class that is declared as one, "
            '`class X(ensue.Command[Reply], service="...", key="...")`'
        )
    spec: EventType[Any] = event_type(cls)
    if not isinstance(spec, CommandType):
        raise UsageError(
            f"{cls.__qualname__} is an event, for whoever subscribes to it: step.publish({cls.__name__}(...))"
        )
    return spec
