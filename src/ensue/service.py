"""What a user declares: a service, its handlers, what it publishes. No I/O here.

A service is one subscription: one checkpoint a partition, one transaction a batch. Its handlers of one event run in
the order of declaration, in the same step.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from ensue.errors import UsageError
from ensue.event import EventType, event_type
from ensue.handling import bound_by_partial, check_callable, is_async, name_of, wraps_async, written_in
from ensue.message import Message
from ensue.repository import Repository, SqlAlchemyRepository, TableRepository
from ensue.retry import Retry
from ensue.step import Step

F = TypeVar("F", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

#: What a handler's parameter can be; the values are places in the tuple that a call picks from.
ENTITY, EVENT, STEP, MESSAGE, SESSION, SYNC_SESSION = range(6)


@dataclasses.dataclass(frozen=True, slots=True)
class Handler:
    """One declared handler.

    order: which of ENTITY, EVENT, STEP, ... each parameter takes. asynchronous: `async def`; any other function may
    still return an awaitable (a decorator's wrapper does). With an entity:
    `id_field` of the event holds the entity's id, `optional` says that a missing entity is handed over as None.
    """

    name: str
    event: EventType[Any]
    function: Callable[..., Any]
    order: tuple[int, ...]
    asynchronous: bool
    entity: type | None = None
    repository: Repository[Any] | None = None
    id_field: str = ""
    optional: bool = False

    @property
    def where(self) -> str:
        """How an error names it."""
        return f"handler {self.name} of {self.event.type}"

    @property
    def needs_session(self) -> bool:
        return SESSION in self.order or SYNC_SESSION in self.order

    def caller(self) -> Callable[[Any, Any, Step], Any]:
        """Return `call(entity, event, step)` that hands each parameter what it asked for, with no lookup left."""
        function, order = self.function, self.order
        if order == (EVENT, STEP):
            return lambda entity, event, step: function(event, step)
        if order == (ENTITY, EVENT, STEP):
            return function
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


class ServiceDefinition:
    """A service's name, handlers and publications; `ensue.Service` adds running to it.

    name: lower-case letters, digits, - and _. publishes: events it may publish; leave it out and it may publish any
    (then `ensue topology` cannot show them). repositories: how entities that are dataclasses are stored.
    """

    def __init__(
        self,
        name: str,
        *,
        publishes: Iterable[type] | None = None,
        repositories: Iterable[TableRepository[Any]] = (),
        retry: Retry | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"service name {name!r}: expected lower-case letters, digits, - and _, at most 63")
        self.name = name
        if isinstance(publishes, type | str):
            shown = publishes if isinstance(publishes, str) else publishes.__name__
            raise UsageError(f"service {name}: publishes={shown} is no list; write publishes=[{shown}]")
        self.publishes: tuple[type, ...] | None = None if publishes is None else tuple(publishes)
        for cls in self.publishes or ():
            event_type(cls)
        self.retry = retry
        self._repositories: dict[type, Repository[Any]] = {each.cls: each for each in repositories}
        self._handlers: dict[str, list[Handler]] = {}

    @property
    def handlers(self) -> Mapping[str, Sequence[Handler]]:
        """Handlers by the wire type of their event, in order of declaration."""
        return self._handlers

    @property
    def repositories(self) -> Mapping[type, Repository[Any]]:
        """By the class of their entities."""
        return self._repositories

    @property
    def subscribed_topics(self) -> tuple[str, ...]:
        return tuple(sorted({each.event.topic for handlers in self._handlers.values() for each in handlers}))

    def on(
        self,
        event: type,
        *,
        entity: type | None = None,
        id: str | None = None,
        repository: Repository[Any] | None = None,
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Declare a handler of an event: `@orders.on(CreditReserved)`, or with `entity=Order` an entity step.

        id: the event's field with the entity's id, else `<entity>_id`. repository: how the entity is stored, else
        found by itself for SQLAlchemy classes and those in `repositories`. name: needed for a second handler of one
        event when the functions share a name.
        Raises UsageError at once when the declaration cannot work; its text says what to write instead.
        """
        spec: EventType[Any] = event_type(event)
        local_names = sys._getframe(1).f_locals  # annotations may name classes of the enclosing function

        def declare(function: F) -> F:
            handler = self._handler(spec, function, entity, id, repository, name, local_names)
            others = self._handlers.setdefault(spec.type, [])
            if any(each.name == handler.name for each in others):
                raise UsageError(
                    f"service {self.name} has two handlers named {handler.name!r} for {spec.type}: "
                    f'give one another name, @{self.name}.on({event.__name__}, name="...")'
                )
            others.append(handler)
            return function

        return declare

    def _handler(
        self,
        spec: EventType[Any],
        function: Callable[..., Any],
        entity: type | None,
        id_field: str | None,
        repository: Repository[Any] | None,
        name: str | None,
        local_names: Mapping[str, Any],
    ) -> Handler:
        called = name or name_of(function)
        where = f"handler {self.name}.{called}"
        check_callable(function, where)
        if entity is not None and not isinstance(entity, type):
            raise UsageError(f"{where}: entity={entity!r} is no class; write the class itself, e.g. entity=Customer")
        try:
            hints = typing.get_type_hints(written_in(function), localns=dict(local_names))
        except NameError as error:
            raise UsageError(
                f"{where}: an annotation cannot be resolved ({error}); import the class where the handler is declared, "
                "not only under TYPE_CHECKING"
            ) from error
        order: list[int] = []
        optional = False
        asynchronous = is_async(function)
        awaits = asynchronous or wraps_async(function)
        given = bound_by_partial(function)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name in given:
                continue
            kind = hints.get(parameter.name)
            place = _place(kind, spec.cls, entity)
            if parameter.kind is parameter.KEYWORD_ONLY:
                raise UsageError(f"{where}: parameter {parameter.name!r} is keyword-only; handlers are called by place")
            if place is None or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise UsageError(
                    f"{where}: parameter {parameter.name!r} is annotated {_show(kind)}; write "
                    + (f"{entity.__name__} or {entity.__name__} | None (the entity), " if entity else "")
                    + f"{spec.cls.__name__} (the event), Step, Message, AsyncSession (async def) or Session (def)"
                )
            if place == SESSION and not awaits:
                raise UsageError(f"{where} is a plain def: annotate {parameter.name!r} with Session, not AsyncSession")
            if place == SYNC_SESSION and awaits:
                raise UsageError(f"{where} is async: annotate {parameter.name!r} with AsyncSession, not Session")
            optional = optional or (place == ENTITY and kind is not entity)
            order.append(place)
        if not order or (EVENT not in order and ENTITY not in order):
            raise UsageError(f"{where} takes no event: write `def {called}(event: {spec.cls.__name__}, step: Step)`")
        if len(set(order)) != len(order):
            raise UsageError(f"{where}: two parameters ask for the same thing")
        if entity is None:
            if id_field or repository:
                raise UsageError(f"{where}: id= and repository= belong to an entity step, which says entity=...")
            return Handler(called, spec, function, tuple(order), asynchronous)
        if ENTITY not in order:
            raise UsageError(f"{where}: entity={entity.__name__} but no parameter is annotated {entity.__name__}")
        field = id_field or f"{_snake(entity.__name__)}_id"
        fields = getattr(spec.cls, "__struct_fields__", None) or tuple(typing.get_type_hints(spec.cls))
        if field not in fields:
            raise UsageError(
                f"{where}: {spec.cls.__name__} has no field {field!r} for the id of {entity.__name__}; "
                f'say which: id="..." (one of {", ".join(fields)})'
            )
        return Handler(
            called, spec, function, tuple(order), asynchronous, entity,
            self._repository(entity, repository, where), field, optional,
        )  # fmt: skip

    def _repository(self, entity: type, given: Repository[Any] | None, where: str) -> Repository[Any]:
        known = self._repositories.get(entity)
        if given is not None:
            if known is not None and known != given:
                raise UsageError(
                    f"{where}: {entity.__name__} has another repository already, and a batch must not hold two copies "
                    "of one row: use one for all handlers, best in Service(..., repositories=[...])"
                )
            known = self._repositories[entity] = known or given
        elif known is None:
            if not hasattr(entity, "__mapper__"):
                raise UsageError(
                    f"{where}: {entity.__name__} is no SQLAlchemy mapped class; declare how it is stored: "
                    f'Service({self.name!r}, repositories=[TableRepository({entity.__name__}, table="...")]), '
                    "or pass repository= with load and save of your own"
                )
            known = self._repositories[entity] = SqlAlchemyRepository(entity)
        table = getattr(known, "table_name", None)
        for other, repository in self._repositories.items():
            if other is not entity and table is not None and getattr(repository, "table_name", None) == table:
                raise UsageError(
                    f"{where}: {entity.__name__} and {other.__name__} are both stored in table {table}, and a batch "
                    "must not hold two copies of one row: use one class for all handlers"
                )
        return known


def _place(kind: Any, event: type, entity: type | None) -> int | None:
    if kind is event:
        return EVENT
    if entity is not None and (kind is entity or _is_optional_of(kind, entity)):
        return ENTITY
    if kind is Step:
        return STEP
    if kind is Message:
        return MESSAGE
    if isinstance(kind, type):
        from sqlalchemy.ext.asyncio import AsyncSession
        from sqlalchemy.orm import Session

        if kind is AsyncSession:
            return SESSION
        if kind is Session:
            return SYNC_SESSION
    return None


def _is_optional_of(kind: Any, entity: type) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and set(typing.get_args(kind)) == {
        entity,
        type(None),
    }


def _show(kind: Any) -> str:
    return "nothing" if kind is None else getattr(kind, "__qualname__", None) or str(kind)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
