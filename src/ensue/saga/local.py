"""Local steps of sagas: functions with a name, whose arguments and results are JSON, so that a journal can keep them.

To the engine one is a handler of a message that the saga writes to itself, in the same transaction: so the steps of all
sagas of a batch load and save their entities together, as any entity steps do.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec

from ensue.errors import BadMessage, UsageError
from ensue.event import EventType
from ensue.failure import Failure
from ensue.formats import of_msgspec
from ensue.handler import ENTITY, EVENT, Handler, id_field, options_of, parameters_of, place_of, resolved, shown
from ensue.handling import check_callable, is_async
from ensue.repository import Repository


@dataclasses.dataclass(frozen=True, slots=True)
class LocalStep:
    """handler: whose event is the arguments, a Struct with a field for each. names: of these fields, in order.
    value: what it returns besides its entity; None: nothing."""

    handler: Handler
    names: tuple[str, ...]
    value: Any

    @property
    def name(self) -> str:
        return self.handler.name

    def bind(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> bytes:
        """Return the arguments as JSON. Raises UsageError for those that the step does not take."""
        spec = self.handler.event
        values = dict(zip(self.names, args, strict=False))
        double, unknown = values.keys() & keywords.keys(), keywords.keys() - set(self.names)
        missing = [each for each in spec.cls.__struct_fields__[: self._needed] if each not in {*values, *keywords}]
        if len(args) > len(self.names) or double or unknown or missing:
            raise UsageError(
                f"local step {self.name} takes ({', '.join(self.names)}) besides what it is given; it was handed "
                f"{len(args)} by place{''.join(f', {each}=' for each in keywords)}"
            )
        return spec.write(spec.cls(**values, **keywords))

    @property
    def _needed(self) -> int:
        cls = self.handler.event.cls
        return len(cls.__struct_fields__) - len(cls.__struct_defaults__)

    def entity_key(self, data: bytes) -> str:
        """The id of its entity, as text; empty: it has none."""
        handler = self.handler
        return str(handler.id_of()(handler.event.read(data))) if handler.entity is not None else ""

    def write_value(self, value: Any) -> bytes:
        """A result as JSON. Raises UsageError for one that would not come back."""
        if self.value is None:
            if value is not None:
                raise UsageError(
                    f"{self.handler.where} returned a {type(value).__qualname__}: annotate what it returns"
                )
            return b"null"
        try:
            data = msgspec.json.encode(value)
            if msgspec.json.decode(data, type=self.value) == value:
                return data
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.handler.where} returned {value!r:.100}, which its journal cannot keep") from error
        raise UsageError(
            f"{self.handler.where} returned {value!r:.100}, which does not come back as it is from JSON; it is "
            f"annotated to return {shown(self.value)}"
        )

    def read_value(self, data: bytes) -> Any:
        """Raises BadMessage for what its annotation does not fit any more."""
        if self.value is None:
            return None
        try:
            return msgspec.json.decode(data, type=self.value)
        except ValueError as error:
            raise BadMessage(
                f"{self.handler.where}: its journaled result is no {shown(self.value)}: {error}"
            ) from error


def local_step(
    function: Callable[..., Any],
    service: str,
    called: str,
    *,
    is_entity: Callable[[Any], bool],
    repository_of: Callable[[type, str], Repository[Any]],
    id: str | None,
    local_names: Mapping[str, Any],
) -> LocalStep:
    """is_entity: whether a class is loaded and saved, and no argument. Raises UsageError that says what to write."""
    where = f"local step {service}.{called}"
    check_callable(function, where)
    places: list[int | str] = []  # of each parameter: what it is given, or the name of an argument
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    entity: type | None = None
    entity_parameter, optional = "", False
    parameters = parameters_of(function, where)
    for parameter in parameters:
        kind = resolved(function, f"of parameter {parameter.name!r}", parameter.annotation, where, local_names)
        kinds = [each for each in options_of(kind) if each is not NoneType]
        place = place_of(kinds)
        if place == ENTITY and len(kinds) == 1 and is_entity(kinds[0]):
            if entity is not None:
                raise UsageError(
                    f"{where} takes two entities, {entity.__name__} and {kinds[0].__name__}: leave one out"
                )
            entity, entity_parameter, optional = kinds[0], parameter.name, len(kinds) < len(options_of(kind))
        elif place in (ENTITY, EVENT):
            default = () if parameter.default is parameter.empty else (parameter.default,)
            fields.append((parameter.name, kind, *default))
            places.append(parameter.name)
            continue
        if place in places:
            raise UsageError(f"{where}: two parameters ask for the same thing: leave one out")
        places.append(place)
    spec = _arguments(service, called, fields, where)
    order = tuple(dict.fromkeys(EVENT if isinstance(each, str) else each for each in places)) or (EVENT,)
    handler = Handler(
        called, spec, _by_place(function, places, parameters, order), order, is_async(function), local=True
    )
    if entity is not None:
        repository = repository_of(entity, entity_parameter)
        name, change = _id_field(spec, entity, repository, id, where, fields)
        handler = dataclasses.replace(
            handler, entity=entity, repository=repository, id_field=name, id_change=change, optional=optional
        )
    elif id is not None:
        raise UsageError(f"{where}: id= belongs to an entity, and no parameter takes one")
    return LocalStep(handler, tuple(each[0] for each in fields), _value(function, entity, where, local_names))


def _arguments(service: str, called: str, fields: Sequence[Any], where: str) -> EventType[Any]:
    kind = f"ensue.local.{service}.{called}.v1"
    cls: Any = msgspec.defstruct(f"{called}_arguments", fields, frozen=True, kw_only=True)
    form = of_msgspec(cls)
    try:
        form.check()
    except UsageError as error:
        raise UsageError(f"{where}: a journal cannot keep its arguments: {error}") from error
    return EventType(cls, kind, form, f"ensue.local.{service}", fields[0][0] if fields else "", called, 1)


def _by_place(
    function: Callable[..., Any],
    places: Sequence[int | str],
    parameters: Sequence[inspect.Parameter],
    order: Sequence[int],
) -> Callable[..., Any]:
    """The function, called as a handler is: by what `order` names, the arguments as one."""
    at = {place: number for number, place in enumerate(order)}
    by_name = [each.kind is each.KEYWORD_ONLY for each in parameters]
    named = [each.name for each in parameters]

    @functools.wraps(function)
    def call(*given: Any) -> Any:
        values = [getattr(given[at[EVENT]], each) if isinstance(each, str) else given[at[each]] for each in places]
        first = len(values) - sum(by_name)
        return function(*values[:first], **dict(zip(named[first:], values[first:], strict=True)))

    return call


def _id_field(
    spec: EventType[Any], entity: type, repository: Repository[Any], id: str | None, where: str, fields: Sequence[Any]
) -> tuple[str, Any]:
    """Of the arguments, or of the fields of one of them, where there is just one such field."""
    try:
        return id_field(spec.cls, entity, repository, id, where)
    except UsageError as error:
        found = []
        for name, kind, *_ in fields:
            if any(hasattr(kind, each) for each in ("__struct_fields__", "__dataclass_fields__")):
                try:
                    inner, change = id_field(kind, entity, repository, id, where)
                except UsageError:
                    continue  # it is said of the arguments themselves, below
                found.append((f"{name}.{inner}", change))
        if len(found) == 1:
            return found[0]
        raise UsageError(f"{error}. Of a local step, its arguments are meant, or the fields of one of them") from error


def _value(function: Callable[..., Any], entity: type | None, where: str, local_names: Mapping[str, Any]) -> Any:
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
