"""What a user declares: an aggregate, and how its events change it. Pure: no I/O, no clock, no chance."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, dataclass_transform

from ensue.errors import UsageError
from ensue.event import event_type, is_event_class
from ensue.handling import is_async, options_of, resolved

F = TypeVar("F", bound=Callable[..., None])
Evolver = Callable[[Any, Any], None]

#: How streams are named; it is the beginning of the ids of their rows.
_STREAM = re.compile(r"[a-z][a-z0-9_-]{0,39}")
#: Where the body of a class collects its evolvers: they may all have one name.
_EVOLVERS = "__ensue_evolvers__"
_EVOLVING, _VERSION = "_ensue_evolving", "_ensue_version"
SNAPSHOT_EVERY_MAX = 1_000_000


@dataclass_transform(field_specifiers=(dataclasses.field,))
class Aggregate:
    """Base of event-sourced aggregates: `class Customer(Aggregate, stream="customer")`, which makes it a dataclass.

    Its one field without a default is its id; the others begin with their defaults and are changed by `@evolves`
    methods alone. Every other method may decide: it returns events, and leaves the state as it is.

    stream: names its streams in the database; the class may be renamed, the stream not. snapshot_every: after so many
    events the state is kept with the stream, so that a load need not begin at the first; 0: never. shape: raise it when
    an evolver makes another state of the same events: what was kept is folded anew then, as when the fields change.
    Raises UsageError at declaration; its text says what to write instead.
    """

    __ensue_evolvers__: ClassVar[Mapping[type, Evolver]] = {}
    __ensue_stream__: ClassVar[str] = ""
    __ensue_id__: ClassVar[str] = ""
    __ensue_snapshot_every__: ClassVar[int] = 1
    __ensue_shape__: ClassVar[int] = 1

    def __init_subclass__(cls, *, stream: str | None = None, snapshot_every: int = 1, shape: int = 1) -> None:
        super().__init_subclass__()
        dataclasses.dataclass(cls)
        own = cls.__dict__.get(_EVOLVERS, ())
        evolvers: dict[type, Evolver] = {}
        for base in reversed(cls.__mro__[1:]):
            evolvers |= base.__dict__.get(_EVOLVERS, {}) if base is not cls else {}
        evolvers |= _collected(cls, own)
        cls.__ensue_evolvers__ = evolvers
        if stream is None:
            if "__ensue_stream__" in {name for base in cls.__mro__[1:-2] for name in base.__dict__}:
                raise UsageError(
                    f'aggregate {cls.__qualname__} inherits from one that has a stream: give it one too, stream="..."'
                )
            return  # a base for the user's own aggregates
        where = f"aggregate {cls.__qualname__}"
        if not isinstance(stream, str) or not _STREAM.fullmatch(stream):
            raise UsageError(
                f"{where}: stream={stream!r:.60}, expected lower-case letters, digits, - and _, at most 40, and a "
                "letter first"
            )
        _check_number(where, "snapshot_every", snapshot_every, 0)
        _check_number(where, "shape", shape, 1)
        cls.__ensue_stream__, cls.__ensue_snapshot_every__, cls.__ensue_shape__ = stream, snapshot_every, shape
        cls.__ensue_id__ = _id_of(cls, where)
        if not evolvers:
            raise UsageError(
                f"{where} has no @evolves, so that none of its events would change anything: write one for each event, "
                "`@evolves` above `def _(self, event: CreditReserved) -> None`"
            )

    def __setattr__(self, name: str, value: object) -> None:
        own = self.__dict__
        if name in own and not own.get(_EVOLVING):
            raise UsageError(
                f"{name} of {type(self).__qualname__} is changed outside of @evolves, so that its events would not say "
                "so, and nobody who loads it would find it: return an event, and change it in the @evolves of that"
            )
        own[name] = value

    @property
    def version(self) -> int:
        """How many events it has: the number of its last one. 0: it does not exist yet."""
        return self.__dict__.get(_VERSION, 0)  # type: ignore[no-any-return]  # it is an int


def evolves(function: F) -> F:
    """Declare how an event changes an aggregate: `@evolves` above `def _(self, event: CreditReserved) -> None`.

    The annotation says which event (`Reserved | Raised`: both). It changes the state and does nothing else: it is run
    again for each load, years later too. So it never refuses: what happened has happened.
    """
    frame = sys._getframe(1)
    body = frame.f_locals
    if not inspect.isfunction(function) or "__qualname__" not in body:
        raise UsageError("@evolves belongs above a method in the body of an Aggregate")
    around = frame.f_back.f_locals if frame.f_back is not None else {}
    where = f"@evolves of {body['__qualname__']}, line {function.__code__.co_firstlineno}"
    body.setdefault(_EVOLVERS, []).append((where, function, {**around, **body}))
    return function


def is_aggregate(cls: object) -> bool:
    """Whether it is one with streams of its own, and not a base of others."""
    return isinstance(cls, type) and issubclass(cls, Aggregate) and bool(cls.__ensue_stream__)


def evolve(aggregate: Aggregate, event: object) -> None:
    """Have an event change it. Raises UsageError for one that it has no evolver for."""
    evolver = type(aggregate).__ensue_evolvers__.get(type(event))
    if evolver is None:
        name = type(aggregate).__qualname__
        raise UsageError(
            f"{type(event).__qualname__} is recorded of a {name}, which has no @evolves for it: write one, "
            f"`def _(self, event: {type(event).__name__}) -> None`, with `pass` in it if it changes nothing"
        )
    own = aggregate.__dict__
    own[_EVOLVING] = True
    try:
        evolver(aggregate, event)
    finally:
        own[_EVOLVING] = False
    own[_VERSION] = own.get(_VERSION, 0) + 1


def set_version(aggregate: Aggregate, version: int) -> None:
    """Of one that is made of a snapshot."""
    aggregate.__dict__[_VERSION] = version


def _collected(cls: type, declared: Any) -> dict[type, Evolver]:
    found: dict[type, Evolver] = {}
    for where, function, names in declared:
        if is_async(function):
            raise UsageError(f"{where} is an async def, and has nothing to wait for: it changes the state and no more")
        parameters = list(inspect.signature(function).parameters.values())
        if len(parameters) != 2 or parameters[1].annotation is inspect.Parameter.empty:
            raise UsageError(f"{where}: expected `def _(self, event: CreditReserved) -> None`, one annotated event")
        kind = resolved(function, f"of parameter {parameters[1].name!r}", parameters[1].annotation, where, names)
        for each in options_of(kind):
            if not is_event_class(each):
                raise UsageError(f"{where}: {each!r:.80} is no declared event: annotate the event's class")
            event_type(each)
            if each in found:
                raise UsageError(f"{where}: {cls.__qualname__} has two @evolves for {each.__qualname__}: leave one out")
            found[each] = function
    return found


def _id_of(cls: type, where: str) -> str:
    fields = dataclasses.fields(cls)
    required = [
        each.name
        for each in fields
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ]
    if len(required) != 1:
        raise UsageError(
            f"{where} has {len(required)} fields without a default ({', '.join(required) or 'none'}), expected one, "
            'its id: the others are set by its events, and have a value before the first (`name: str = ""`)'
        )
    if taken := [each.name for each in fields if each.name == "version"]:
        raise UsageError(
            f"{where}: every aggregate has a {taken[0]}, the number of its events: name the field otherwise"
        )
    if late := [each.name for each in fields if not each.init]:
        raise UsageError(f"{where}: {', '.join(late)} has init=False, so that no snapshot could set it: leave that out")
    return required[0]


def _check_number(where: str, name: str, value: object, least: int) -> None:
    if type(value) is not int or not least <= value <= SNAPSHOT_EVERY_MAX:
        raise UsageError(f"{where}: {name}={value!r:.60}, expected a whole number from {least} to {SNAPSHOT_EVERY_MAX}")
