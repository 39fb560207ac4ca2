"""A handler: what its annotations ask for, and how it is called. No I/O here.

Each parameter says by its type what it takes: a declared event class the event, `Step`, `Message` and sessions
themselves, anything else the entity. So a declaration names each class once.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

from ensue.catch_up import Since
from ensue.command import CommandType
from ensue.errors import BadMessage, UsageError
from ensue.event import EventType, event_type, is_event_class
from ensue.handling import (
    IMPORT_IT,
    bound_by_partial,
    by_place,
    check_callable,
    is_async,
    options_of,
    resolved,
    wraps_async,
)
from ensue.kinds import Change, change_of, class_of, same
from ensue.message import Message
from ensue.repository import Repository
from ensue.schedule import Run
from ensue.step import Step

#: What a handler's parameter can be; the values are places in the tuple that a call picks from.
ENTITY, EVENT, STEP, MESSAGE, SESSION, SYNC_SESSION = range(6)


@dataclasses.dataclass(frozen=True, slots=True)
class Handler:
    """One declared handler of one event.

    order: which of ENTITY, EVENT, STEP, ... each parameter takes. asynchronous: `async def`; any other function may
    still return an awaitable (a decorator's wrapper does). With an entity: `id_field` of the event holds the entity's
    id, which `id_change` makes of its value; `optional` says that a missing entity is handed over as None. since: see
    `catch_up.Since`. keywords: names of the last parameters, where they can be given by name only. local: it is a local
    step of sagas, and its event the arguments. starts: a saga, by the data of the command, who waits for the answer,
    and the saga's id: returns key and data of the record that does it.
    """

    name: str
    event: EventType[Any]
    function: Callable[..., Any]
    order: tuple[int, ...]
    asynchronous: bool
    entity: type | None = None
    repository: Repository[Any] | None = None
    id_field: str = ""
    id_change: Change = same
    optional: bool = False
    since: Since = "beginning"
    keywords: tuple[str, ...] = ()
    local: bool = False
    starts: Callable[..., tuple[str, bytes]] | None = None

    @property
    def where(self) -> str:
        """How an error names it."""
        if self.local:
            return f"local step {self.name}"
        return f"handler {self.name} of {self.event.type}"

    @property
    def command(self) -> CommandType[Any] | None:
        """Set where it handles a command: what it returns is the answer."""
        return self.event if isinstance(self.event, CommandType) else None

    @property
    def answers(self) -> bool:
        """Whether what it returns, besides an entity, is a value that somebody waits for."""
        return self.local or self.command is not None

    @property
    def needs_session(self) -> bool:
        return SESSION in self.order or SYNC_SESSION in self.order

    @property
    def needs_step(self) -> bool:
        """Whether it asks for the step, or for something of it."""
        return not {ENTITY, EVENT}.issuperset(self.order)

    def id_of(self) -> Callable[[Any], Any]:
        """Return what reads the entity's id from an event. It raises BadMessage for what cannot be one."""
        get, change = attrgetter(self.id_field), self.id_change
        if change is same:
            return get

        def read(event: Any) -> Any:
            value = get(event)
            try:
                return None if value is None else change(value)
            except ValueError as error:
                assert self.entity is not None
                raise BadMessage(
                    f"{self.where}: {self.id_field} is {value!r:.100}, which cannot be the id of a "
                    f"{self.entity.__name__}: {error}. Correct the sender, or give the field the id's own type",
                    entity=self.entity.__name__,
                    entity_id=value,
                ) from error

        return read

    def caller(self) -> Callable[[Any, Any, Step], Any]:
        """Return `call(entity, event, step)` that hands each parameter what it asked for, with no lookup left."""
        function, order = by_place(self.function, self.keywords), self.order
        if not order:  # a recurring step that needs nothing of this
            return lambda entity, event, step: function()
        if order == (EVENT, STEP):
            return lambda entity, event, step: function(event, step)
        if order == (ENTITY, EVENT, STEP):
            return function
        if order == (ENTITY, EVENT):
            return lambda entity, event, step: function(entity, event)
        if max(order) <= STEP and len(order) > 1:
            pick = itemgetter(*order)
            return lambda entity, event, step: function(*pick((entity, event, step)))
        getters = [_GETTERS[place] for place in order]
        return lambda entity, event, step: function(*[get(entity, event, step) for get in getters])


_GETTERS: dict[int, Callable[[Any, Any, Step], Any]] = {
    ENTITY: lambda entity, event, step: entity,
    EVENT: lambda entity, event, step: event,
    STEP: lambda entity, event, step: step,
    MESSAGE: lambda entity, event, step: step.message,
    SESSION: lambda entity, event, step: step.session,
    SYNC_SESSION: lambda entity, event, step: step.transaction.sync_session(),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What a function's parameters ask for: as a Handler's; `events`: all that it takes."""

    order: tuple[int, ...]
    asynchronous: bool
    events: tuple[EventType[Any], ...]
    entity: type | None
    entity_parameter: str
    optional: bool
    keywords: tuple[str, ...]


def read_parameters(
    function: Callable[..., Any],
    where: str,
    given_entity: type | None,
    local_names: Mapping[str, Any],
    *,
    recurring: bool = False,
) -> Asked:
    """given_entity: the entity's class, where the annotation is a wider one. local_names: of the enclosing function.
    recurring: it is begun by time, so that it has no event, but a `Run` in its place, and no entity.

    Raises UsageError that names the parameter and what to write when the declaration cannot work.
    """
    check_callable(function, where)
    asynchronous = is_async(function)
    awaits = asynchronous or wraps_async(function)
    order: list[int] = []
    taken: dict[int, str] = {}
    events: tuple[EventType[Any], ...] = ()
    entity: type | None = None
    optional = False
    parameters = parameters_of(function, where)
    for parameter in parameters:
        kind = resolved(function, f"of parameter {parameter.name!r}", parameter.annotation, where, local_names)
        kinds = [each for each in options_of(kind) if each is not types.NoneType]
        place = place_of(kinds)
        if recurring and place in (EVENT, ENTITY) and kinds != [Run]:
            raise UsageError(
                f"{where}: parameter {parameter.name!r} is annotated {' | '.join(map(shown, kinds)) or 'None'}; time "
                "begins a recurring step, so it has no event, and no entity: it takes Run, Step, Message, AsyncSession "
                "(async def) or Session (def)"
            )
        if kinds == [Run]:
            if not recurring:
                raise UsageError(
                    f"{where}: parameter {parameter.name!r} is annotated Run, which is for a recurring step: write "
                    '@service.every("0 3 * * *") above it'
                )
        elif place == EVENT:
            events = tuple(event_type(each) for each in kinds)
        elif place == ENTITY:
            entity = _entity(kinds, given_entity, parameter.name, where)
            optional = len(kinds) < len(options_of(kind))
        elif place == SESSION and not awaits:
            raise UsageError(f"{where} is a plain def: annotate {parameter.name!r} with Session, not AsyncSession")
        elif place == SYNC_SESSION and awaits:
            raise UsageError(f"{where} is async: annotate {parameter.name!r} with AsyncSession, not Session")
        if place in taken:
            raise UsageError(
                f"{where}: parameters {taken[place]!r} and {parameter.name!r} ask for the same thing; "
                + ("a step has one entity: load others by step.session" if place == ENTITY else "leave one out")
            )
        taken[place] = parameter.name
        order.append(place)
    if not events and not recurring:
        raise UsageError(f"{where} takes no event: annotate a parameter with its class, e.g. `event: OrderCreated`")
    if given_entity is not None and entity is None:
        raise UsageError(f"{where}: entity={given_entity.__name__}, but no parameter takes it")
    keywords = tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
    return Asked(tuple(order), asynchronous, events, entity, taken.get(ENTITY, ""), optional, keywords)


def parameters_of(function: Callable[..., Any], where: str) -> Sequence[inspect.Parameter]:
    """Those that are not bound yet. Raises UsageError for what says nothing about what to hand over."""
    try:
        found = inspect.signature(function).parameters.values()
    except NameError as error:  # Python 3.14 evaluates annotations here
        raise UsageError(f"{where}: an annotation cannot be resolved ({error}); {IMPORT_IT}") from error
    except ValueError as error:
        raise UsageError(f"{where}: its parameters cannot be read ({error}); declare a Python function") from error
    bound = bound_by_partial(function)
    left = [each for each in found if each.name not in bound]
    for each in left:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise UsageError(
                f"{where} takes *{each.name}, which says nothing about what to hand over: annotate single parameters; "
                "a decorator keeps those of the function with functools.wraps"
            )
        if each.annotation is each.empty:
            raise UsageError(
                f"{where}: parameter {each.name!r} has no annotation; "
                + ("register the method of an object, service.on(object.method)" if each.name == "self" else _WRITE)
            )
    return left


_WRITE = "write the event's class, Step, Message, AsyncSession (async def), Session (def), or the class of an entity"


def place_of(kinds: Sequence[Any]) -> int:
    """What a parameter of these types is given; of a class that says nothing of itself: ENTITY."""
    if kinds and all(is_event_class(each) for each in kinds):
        return EVENT
    if len(kinds) == 1:
        if kinds[0] is Run:
            return EVENT
        if kinds[0] is Step:
            return STEP
        if kinds[0] is Message:
            return MESSAGE
        if isinstance(kinds[0], type):
            from sqlalchemy.ext.asyncio import AsyncSession
            from sqlalchemy.orm import Session

            if kinds[0] is AsyncSession:
                return SESSION
            if kinds[0] is Session:
                return SYNC_SESSION
    return ENTITY


def _entity(kinds: Sequence[Any], given: type | None, parameter: str, where: str) -> type:
    said = " | ".join(map(shown, kinds)) or "None"
    if given is not None:
        narrow = [
            each
            for each in kinds
            if isinstance(each, type) and each is not Any and not getattr(each, "_is_protocol", False)
        ]
        if not all(issubclass(given, each) for each in narrow):
            raise UsageError(f"{where}: entity={given.__name__}, but parameter {parameter!r} is annotated {said}")
        return given
    if len(kinds) != 1 or not isinstance(kinds[0], type):
        raise UsageError(f"{where}: parameter {parameter!r} is annotated {said}; {_WRITE}, perhaps with `| None`")
    return kinds[0]


def id_field(
    event: type, entity: type, repository: Repository[Any], given: str | None, where: str
) -> tuple[str, Change]:
    """Return the field of `event` that holds the entity's id, the one that is named as its key, else `<entity>_id`, and
    what makes the key's type of its values.

    A key that is just `id` does not say whose it is, and the event may have an id of its own: not taken unasked.
    Raises UsageError when there is none, or when no value of its type is for certain one of the key's.
    """
    hints = _hints(event)
    key = getattr(repository, "id_name", "")
    candidates = (
        [given] if given else [each for each in (key, f"{_snake(entity.__name__)}_id") if each not in ("", "id")]
    )
    found = next((each for each in candidates if each in hints), None)
    if found is None:
        names = " or ".join(map(repr, dict.fromkeys(candidates)))
        raise UsageError(
            f"{where}: {event.__name__} has no field {names} for the id of {entity.__name__}; "
            f'say which: on(id="...") (one of {", ".join(hints)})'
        )
    have, want = class_of(hints[found]), getattr(repository, "id_type", None)
    change = change_of(have, want)
    if change is None:
        assert have is not None
        assert want is not None
        raise UsageError(
            f"{where}: {event.__name__}.{found} is {have.__name__}, and the id of {entity.__name__} is "
            f"{want.__name__}, so no entity would ever be found: declare both alike ({found}: {want.__name__}), "
            'or say which field holds the id: on(id="...")'
        )
    return found, change


def _hints(event: type) -> Mapping[str, Any]:
    """Its fields with their types; None as a type that is not known yet (a class that is declared further down)."""
    kinds = ("__struct_fields__", "model_fields", "__dataclass_fields__")
    names = next(getattr(event, each) for each in kinds if hasattr(event, each))
    try:
        hints = typing.get_type_hints(event)
    except NameError:
        hints = {}
    return {name: hints.get(name) for name in names}


def shown(kind: Any) -> str:
    """An annotation as an error names it."""
    return kind.__qualname__ if isinstance(kind, type) and typing.get_origin(kind) is None else str(kind)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
