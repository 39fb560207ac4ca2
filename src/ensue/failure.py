"""Failures: what a command's handler answers instead of its reply, as an exception with typed fields.

It travels by its type's name and its fields, never by texts: who gets it raises the same class with the same fields.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, ClassVar, cast, dataclass_transform

import msgspec

from ensue.codec import TYPE_CHARS_MAX
from ensue.errors import BadMessage, UsageError
from ensue.event import Shape
from ensue.formats import of_msgspec

_read_fields = msgspec.json.Decoder(dict[str, Any]).decode

#: Every declared failure by its name on the wire.
_declared: dict[str, type[Failure]] = {}


@dataclass_transform(kw_only_default=True, eq_default=False)
class Failure(Exception):
    """Base of failures: `class CreditLimitExceeded(Failure)` with fields, `available: Decimal`.

    Raised by a command's handler: nothing of its step is kept. Returned: what the step did is kept. Either way the
    failure is the answer, and is raised where the command came from. type_name: the name on the wire, else the class's.
    Raises UsageError at declaration: fields that could not be read back, a name taken by another class.
    """

    __ensue_shape__: ClassVar[Shape[Any]]

    def __init_subclass__(cls, *, type_name: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(kw_only=True, eq=False)(cls)
        if taken := [each.name for each in dataclasses.fields(cast(Any, cls)) if hasattr(Exception, each.name)]:
            raise UsageError(
                f"failure {cls.__qualname__}: each exception has {', '.join(taken)}: name its field otherwise"
            )
        name = cls.__name__ if type_name is None else type_name
        if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= TYPE_CHARS_MAX):
            raise UsageError(
                f"failure {cls.__qualname__}: type_name={name!r:.60}, expected a str of 1 to {TYPE_CHARS_MAX} "
                "characters, all printable"
            )
        other = _declared.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(
                f"failure {name} is declared by {other.__module__}.{other.__qualname__} and again by "
                f"{cls.__module__}.{cls.__qualname__}, and it travels by its name: give one another type_name"
            )
        cls.__ensue_shape__ = Shape(cls, name, of_msgspec(cast(Any, cls)))
        with contextlib.suppress(NameError):  # a field names a class that is defined further down
            cls.__ensue_shape__.format.check()
        _declared[name] = cls

    def __str__(self) -> str:
        return repr(self)

    def __reduce__(self) -> tuple[Any, ...]:  # an exception's own makes it again without its fields
        return _made, (type(self), self.__dict__)


class Discarded(Failure):
    """The command was not done: it failed with an error, and an operator gave it up."""


class UnknownFailure(Failure):
    """A failure of a class that is not declared in this process, or declared with other fields."""

    type_name: str
    fields: dict[str, Any]


def said_of(failure: Failure, *, values: bool) -> str:
    """A failure in words: its name, and the values of its fields where those may be seen."""
    if values:
        return str(failure)
    return failure.type_name if isinstance(failure, UnknownFailure) else failure.__ensue_shape__.type


def failure_in(error: BaseException) -> Failure | None:
    """The failure that an error is, or that a task group has wrapped alone; None: it is another error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        [error] = error.exceptions
    return error if isinstance(error, Failure) else None


def written(failure: Failure) -> tuple[str, bytes]:
    """Return name and fields as JSON. Raises UsageError for values that would not come back as they are."""
    if type(failure) is Failure:
        raise UsageError("Failure itself says nothing: declare a class, `class CreditLimitExceeded(Failure): ...`")
    shape = failure.__ensue_shape__
    return shape.type, shape.write(failure)


def read(name: str, fields: bytes) -> Failure:
    """Return the failure that `written` had."""
    cls = _declared.get(name)
    if cls is not None:
        try:
            found = cls.__ensue_shape__.read(fields)
        except BadMessage as error:
            unknown = UnknownFailure(type_name=name, fields=_read_fields(fields))
            unknown.__cause__ = error
            return unknown
        return _made(cls, found.__dict__)  # what a decoder makes of an exception lacks what each exception has
    return UnknownFailure(type_name=name, fields=_read_fields(fields))


def _made(cls: type[Failure], values: dict[str, Any]) -> Failure:
    made = cls.__new__(cls)
    made.__dict__.update(values)
    return made
