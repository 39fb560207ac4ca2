"""Functions that a saga asks for by their names: their arguments and results are JSON, so that a row can keep them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec

from ensue.errors import BadMessage, UsageError
from ensue.event import EventType
from ensue.failure import Failure
from ensue.formats import of_msgspec
from ensue.handler import shown
from ensue.handling import options_of, resolved
from ensue.saga.wake import NAME


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """where: how an error names it. arguments: a Struct with a field for each. names: of these fields, in order.
    value: what it returns besides its entity; None: nothing."""

    name: str
    where: str
    arguments: EventType[Any]
    names: tuple[str, ...]
    value: Any

    def bind(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """Return the arguments as one. Raises UsageError for those that it does not take."""
        spec = self.arguments
        if not keywords and len(args) == len(self.names):
            return spec.cls(**dict(zip(self.names, args)))  # noqa: B905  # as many as there are, see above
        values = dict(zip(self.names, args, strict=False))
        double, unknown = values.keys() & keywords.keys(), keywords.keys() - set(self.names)
        needed = len(spec.cls.__struct_fields__) - len(spec.cls.__struct_defaults__)
        missing = [each for each in spec.cls.__struct_fields__[:needed] if each not in {*values, *keywords}]
        if len(args) > len(self.names) or double or unknown or missing:
            raise UsageError(
                f"{self.where} takes ({', '.join(self.names)}) besides what it is given; it was handed "
                f"{len(args)} by place{''.join(f', {each}=' for each in keywords)}"
            )
        return spec.cls(**values, **keywords)

    def write_value(self, value: Any) -> bytes:
        """A result as JSON. Raises UsageError for one that would not come back."""
        if self.value is None:
            if value is not None:
                raise UsageError(f"{self.where} returned a {type(value).__qualname__}: annotate what it returns")
            return b"null"
        try:
            data = msgspec.json.encode(value)
            if msgspec.json.decode(data, type=self.value) == value:
                return data
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{self.where} returned a {type(value).__qualname__} which its journal cannot keep, expected a "
                f"{shown(self.value)}: {error}"
            ) from error
        raise UsageError(
            f"{self.where} returned a {type(value).__qualname__} which does not come back as it is from JSON; it is "
            f"annotated to return {shown(self.value)}"
        )

    def read_value(self, data: bytes) -> Any:
        """Raises BadMessage for what its annotation does not fit any more."""
        if self.value is None:
            return None
        try:
            return msgspec.json.decode(data, type=self.value)
        except ValueError as error:
            raise BadMessage(f"{self.where}: its journaled result is no {shown(self.value)}: {error}") from error


def check_named(
    service: str, known: Mapping[Any, Named], function: Any, called: str, where: str, decorator: str
) -> None:
    """Raises UsageError for what is declared already, and a name that is taken or none."""
    if not NAME.fullmatch(called):
        raise UsageError(f'{where}: give it a name of letters, digits, - and _, at most 63: {decorator}(name="...")')
    if isinstance(function, Hashable) and function in known:
        raise UsageError(f"{where} is declared already, as {known[function].where}")
    if any(each.name == called for each in known.values()):
        raise UsageError(
            f"service {service} has two local steps or outside functions named {called!r}: give one another name"
        )


def arguments_of(topic: str, called: str, fields: Sequence[Any], where: str) -> EventType[Any]:
    """The class that holds them. fields: name and type of each, and its default. Raises UsageError."""
    cls: Any = msgspec.defstruct(f"{called}_arguments", fields, frozen=True, kw_only=True)
    form = of_msgspec(cls)
    try:
        form.check()
    except UsageError as error:
        raise UsageError(f"{where}: a journal cannot keep its arguments: {error}") from error
    return EventType(cls, f"{topic}.{called}.v1", form, topic, fields[0][0] if fields else "", called, 1)


def value_of(function: Callable[..., Any], entity: type | None, where: str, local_names: Mapping[str, Any]) -> Any:
    """The type of what it returns besides its entity and failures."""
    said = inspect.signature(function).return_annotation
    if said is inspect.Signature.empty or said is None:
        return None
    kind = resolved(function, "of its return", said, where, local_names)
    left: list[Any] = []
    for each in options_of(kind):
        if get_origin(each) is tuple and entity is not None and get_args(each)[:1] == (entity,):
            [_, each] = get_args(each) if len(get_args(each)) == 2 else (None, each)
        if each is entity or (isinstance(each, type) and issubclass(each, Failure)):
            continue
        left.append(each)
    if all(each is NoneType for each in left):
        return None
    found = functools.reduce(operator.or_, left)
    try:
        msgspec.json.Decoder(found)
    except TypeError as error:
        raise UsageError(f"{where}: a journal cannot keep what it returns, {shown(kind)}: {error}") from error
    return found
