"""Local steps of sagas: functions with a name, each a part of the transaction in which its saga goes on.

To the engine one is a handler of a message that the saga writes to itself, in the same transaction: so the steps of all
sagas of a batch load and save their entities together, as any entity steps do.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any

from ensue.errors import UsageError
from ensue.event import EventType
from ensue.handler import ENTITY, EVENT, Handler, id_field, parameters_of, place_of
from ensue.handling import check_callable, is_async, options_of, resolved
from ensue.repository import Repository
from ensue.saga.named import Named, arguments_of, value_of


@dataclasses.dataclass(frozen=True, slots=True)
class LocalStep(Named):
    """handler: whose event is the arguments. id_of: reads the entity's id from them, where it has one."""

    handler: Handler
    id_of: Callable[[Any], Any]

    def entity_key(self, arguments: Any) -> str:
        """The id of its entity, as text; empty: it has none. Raises UsageError for arguments that do not fit."""
        if self.handler.entity is None:
            return ""
        try:
            return str(self.id_of(arguments))
        except Exception:  # they are not what they are annotated to be: that is said better than by what came of it
            self.arguments.write(arguments)
            raise


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
    spec = arguments_of(f"ensue.local.{service}", called, fields, where)
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
    value = value_of(function, entity, where, local_names)
    names = tuple(each[0] for each in fields)
    return LocalStep(called, handler.where, spec, names, value, handler, handler.id_of())


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
