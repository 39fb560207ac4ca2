"""What a user declares: a service, its handlers, what it publishes. No I/O here.

A service is one subscription: one checkpoint a partition, one transaction a batch. Its handlers of one event run in
the order of declaration, in the same step. What it does by time are messages to itself, see docs/adr/0039.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

from ensue.aggregate.aggregate import Aggregate, is_aggregate
from ensue.aggregate.kind import kind_of
from ensue.answers import keeps_answers
from ensue.catch_up import Since
from ensue.command import SERVICE_NAME, CommandType
from ensue.errors import UsageError
from ensue.event import EventType, event_type, is_event_class
from ensue.formats import of_msgspec
from ensue.handler import EVENT, SESSION, SYNC_SESSION, Handler, id_field, read_parameters
from ensue.handling import name_of
from ensue.mapped import SqlAlchemyRepository, is_mapped
from ensue.message import REPLY, SAGA, TOLD
from ensue.reply import is_of_replies, replies_of
from ensue.repository import AggregateRepository, Repository, TableRepository
from ensue.retry import Retry
from ensue.returns import check_returns
from ensue.saga.code import SagaCode, saga_code
from ensue.saga.local import LocalStep, local_step
from ensue.saga.named import Named
from ensue.saga.outside import OutsideFunction, outside_function
from ensue.saga.saga import Saga
from ensue.saga.wake import NAME as _SAGA_NAME
from ensue.saga.wake import wake_handler
from ensue.schedule import Missed, Run, Schedule, schedule_of

F = TypeVar("F", bound=Callable[..., Any])
_RECURRING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_RUNS = of_msgspec(Run)


class ServiceDefinition:
    """The part of `ensue.Service` that does no I/O: its name, handlers and publications, for the engine.

    calls: the commands whose answers it waits for, see `Service.call`. signs_as: the service whose key it signs with.
    is_view: it publishes nothing, and is complete: what the log has lost of a source's beginning it never passes over
    by itself.
    """

    def __init__(
        self,
        name: str,
        *,
        publishes: Iterable[type] | None = None,
        calls: Iterable[type] = (),
        repositories: Iterable[TableRepository[Any]] = (),
        aggregates: Iterable[type[Aggregate]] = (),
        retry: Retry | None = None,
        prunes: Iterable[str] = (),
        lanes: int = 1,
        handler_limit_s: float | None = None,
        outside_max: int = 50,
    ) -> None:
        if not SERVICE_NAME.fullmatch(name):
            raise UsageError(f"service name {name!r}: expected lower-case letters, digits, - and _, at most 63")
        self.name = name
        self.signs_as = name
        self.is_view = False
        self.publishes = None if publishes is None else _classes(name, "publishes", publishes)
        self.calls = _classes(name, "calls", calls)
        for cls in self.calls:
            if not isinstance(event_type(cls), CommandType):
                raise UsageError(f"service {name}: calls={cls.__qualname__}, which is an event: name commands there")
        if isinstance(prunes, str):
            raise UsageError(f"service {name}: prunes={prunes!r} is no list; write prunes=[{prunes!r}]")
        self.prunes = frozenset(prunes)
        self.retry = retry
        if not 1 <= lanes <= 64:
            raise UsageError(f"service {name}: lanes={lanes}, expected 1 to 64")
        self.lanes = lanes
        if handler_limit_s is not None and not handler_limit_s >= 0:
            raise UsageError(f"service {name}: handler_limit_s={handler_limit_s}, expected seconds; 0: no limit")
        self.handler_limit_s = handler_limit_s
        if not 1 <= outside_max <= 10_000:
            raise UsageError(f"service {name}: outside_max={outside_max}, expected 1 to 10,000")
        self.outside_max = outside_max
        self._repositories: dict[type, Repository[Any]] = {each.cls: each for each in repositories}
        for aggregate in _listed(name, "aggregates", aggregates):
            self._aggregate(aggregate, f"service {name}")
        self._handlers: dict[str, list[Handler]] = {REPLY: [keeps_answers(name)]} if self.calls else {}
        self._recurring: dict[str, Schedule] = {}
        self._sagas: dict[tuple[str, int], SagaCode] = {}
        self._named: dict[Callable[..., Any], Named] = {}

    @property
    def handlers(self) -> Mapping[str, Sequence[Handler]]:
        """Handlers by the wire type of their event, in order of declaration: of older versions too, where upcasters
        make an event of today of them and nobody handles them as they are."""
        found: dict[str, Sequence[Handler]] = dict(self._handlers)
        for handlers in self._handlers.values():
            for older in handlers[0].event.older:
                if older.type not in found:
                    found[older.type] = [dataclasses.replace(each, event=older) for each in handlers]
        return found

    @property
    def recurring(self) -> Mapping[str, Schedule]:
        """Of the recurring steps, by name."""
        return self._recurring

    @property
    def sagas(self) -> Mapping[tuple[str, int], SagaCode]:
        """By name and version."""
        return self._sagas

    @property
    def locals(self) -> Mapping[Callable[..., Any], LocalStep]:
        """The local steps of sagas, by function."""
        return {function: each for function, each in self._named.items() if isinstance(each, LocalStep)}

    @property
    def outsides(self) -> Mapping[str, OutsideFunction]:
        """The outside functions of sagas, by name."""
        return {each.name: each for each in self._named.values() if isinstance(each, OutsideFunction)}

    @property
    def all_handlers(self) -> Sequence[Handler]:
        """Of messages, and the local steps of sagas."""
        return [
            *(each for handlers in self._handlers.values() for each in handlers),
            *(each.handler for each in self.locals.values()),
        ]

    def runs_of(self, name: str) -> EventType[Run]:
        """What begins a recurring step, as the wire sees it: a topic of the service's own, a type for each step."""
        topic = f"ensue.every.{self.name}"
        return EventType(Run, f"{topic}.{name}.v1", _RUNS, topic, "due", name, 1)

    @property
    def aggregates(self) -> Sequence[type[Aggregate]]:
        """Those that are declared, and those that handlers take."""
        return [each.cls for each in self._repositories.values() if isinstance(each, AggregateRepository)]

    @property
    def stream_topics(self) -> frozenset[str]:
        """The topics that carry the events of its aggregates, which nobody prunes."""
        return frozenset(event_type(each).topic for cls in self.aggregates for each in cls.__ensue_evolvers__)

    @property
    def repositories(self) -> Mapping[type, Repository[Any]]:
        """By the class of their entities."""
        return self._repositories

    def wanted(self, topic: str) -> dict[str, Since]:
        """The event types of a topic that are handled, each with the earliest `since` of its handlers."""
        found: dict[str, Since] = {}
        for kind, handlers in self.handlers.items():
            if handlers[0].event.topic == topic:
                found[kind] = min((each.since for each in handlers), key=_earliness)
        return found

    def publishes_to(self, topics: Iterable[str]) -> set[str]:
        """Those of these topics that it publishes to, as far as its declaration tells. Who asks for an answer says
        where it goes, so to one who handles commands all topics of answers belong."""
        declared = {event_type(cls).topic for cls in (*(self.publishes or ()), *self.calls)}
        declared |= {self.runs_of(name).topic for name in self.recurring}
        declared |= {replies_of(self.name)} if self._sagas else set()
        answers = any(each.command is not None for handlers in self._handlers.values() for each in handlers)
        return {topic for topic in topics if topic in declared or (answers and is_of_replies(topic))}

    @property
    def subscribed_topics(self) -> tuple[str, ...]:
        return tuple(sorted({each.event.topic for handlers in self._handlers.values() for each in handlers}))

    @overload
    def on(self, function: F, /) -> F: ...

    @overload
    def on(
        self,
        *,
        entity: type | None = None,
        id: str | None = None,
        repository: Repository[Any] | None = None,
        name: str | None = None,
        since: Since = "beginning",
    ) -> Callable[[F], F]: ...

    def on(
        self,
        function: Any = None,
        *,
        entity: type | None = None,
        id: str | None = None,
        repository: Repository[Any] | None = None,
        name: str | None = None,
        since: Since = "beginning",
        **unknown: Any,
    ) -> Any:
        """Declare a handler: `@customers.on` above `def reserve(customer: Customer, event: OrderCreated, step: Step)`.

        Its annotations say what it takes. An event class: the event (`Opened | Closed`: it handles both). `Step`,
        `Message`, `AsyncSession` (async def) or `Session` (def): these. Any other class: the entity, which is loaded
        and saved for it; `Customer | None`: it may be missing, and a new one is returned.

        id: the event's field with the entity's id, else the one named as the entity's key (unless that is just `id`),
        else `<entity>_id`. entity: its class, where the annotation is a wider one (a protocol, a base class).
        repository: how it is stored, else found by itself for SQLAlchemy classes and those in `repositories`.
        name: needed for a second handler of one event when the functions share a name.
        since: what a service that begins to handle this event type wants of those published before: all that the log
        still has ("beginning"), none ("now"), or those of an aware datetime and later. Of several handlers of one type
        the earliest counts; once the type is handled it says nothing any more.
        Raises UsageError at once when the declaration cannot work; its text says what to write instead.
        """
        if not isinstance(self, ServiceDefinition):
            raise UsageError(
                '@Service.on: handlers belong to one service: write `orders = Service("orders")` and then @orders.on'
            )
        if is_event_class(function):
            raise UsageError(
                f"@{self.name}.on({function.__name__}...): the event is read from the handler's annotation; write "
                f"@{self.name}.on above `def ...(..., event: {function.__name__})`, with no class in brackets"
            )
        if unknown or isinstance(function, str):
            shown = [repr(function)[:60]] * isinstance(function, str) + [f"{each}=" for each in unknown]
            raise UsageError(
                f"@{self.name}.on({', '.join(shown)}): topic and event are read from the handler's annotation; write "
                f"@{self.name}.on above `def ...(..., event: OrderCreated)`; in brackets there may be entity=, id=, "
                "repository=, name= and since="
            )
        if self.is_view and since == "now":
            raise UsageError(
                f'@{self.signs_as}.on(since="now"): a view that is built again would have other rows than before: '
                "leave it out, or give a datetime"
            )
        local_names = sys._getframe(1).f_locals  # annotations may name classes of the enclosing function

        def declare(function: F) -> F:
            called = name or name_of(function)
            for handler in self._handlers_of(function, called, entity, id, repository, local_names):
                if handler.command is not None:
                    raise UsageError(
                        f"handler {self.name}.{called} takes {handler.event.cls.__qualname__}, which is a command: "
                        f"declare it with @{self.name}.handles"
                    )
                handler = dataclasses.replace(handler, since=_checked_since(since, f"handler {self.name}.{called}"))
                others = self._handlers.setdefault(handler.event.type, [])
                if any(each.name == called for each in others):
                    raise UsageError(
                        f"service {self.name} has two handlers named {called!r} for {handler.event.type}: "
                        f'give one another name, @{self.name}.on(name="...")'
                    )
                _check_sessions(self.name, [*others, handler])
                others.append(handler)
            return function

        return declare if function is None else declare(function)

    def every(
        self,
        schedule: str | datetime.timedelta,
        /,
        *,
        tz: str | None = None,
        missed: Missed = "once",
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Declare a recurring step: `@orders.every("0 3 * * *", tz="Europe/Berlin")`, or `every(timedelta(minutes=5))`.

        The function, plain or async, may take `Step`, `Message`, `AsyncSession` (async def) or `Session` (def), and
        `Run`, which says for when it was due. It runs in one process at a time, each due time takes effect once, and
        the next one is armed in the same transaction. A run that fails is tried again as a message is, and becomes a
        dead letter in the end; what is due next comes all the same.

        schedule: a cron expression of five fields (six: seconds come first), or an interval, which begins when the
        step is first declared. tz: the zone whose clock the expression goes by, else UTC.
        missed: what becomes of due times that passed while no run could begin: one run makes up for all of them
        ("once"), none does ("skip"), or each has its own ("all").
        name: else the function's. It names the step in the database, through deployments.
        Raises UsageError at once when the declaration cannot work; its text says what to write instead.
        """
        if callable(schedule):
            raise UsageError(
                f'@{self.name}.every wants to know when: write @{self.name}.every("0 3 * * *") or '
                f"@{self.name}.every(timedelta(minutes=5)) above the function"
            )
        checked = schedule_of(schedule, tz, missed, f"@{self.name}.every", time.time())
        local_names = sys._getframe(1).f_locals

        def declare(function: F) -> F:
            called = name or name_of(function)
            where = f"recurring step {self.name}.{called}"
            if not _RECURRING_NAME.fullmatch(called):
                raise UsageError(
                    f"{where}: a name of letters, digits, - and _, at most 63, is kept in the database: give it one, "
                    f'@{self.name}.every(..., name="...")'
                )
            if called in self._recurring:
                raise UsageError(
                    f"service {self.name} has two recurring steps named {called!r}: give one another name, "
                    f'@{self.name}.every(..., name="...")'
                )
            asked = read_parameters(function, where, None, local_names, recurring=True)
            spec = self.runs_of(called)
            self._recurring[called] = checked
            self._handlers[spec.type] = [
                Handler(called, spec, function, asked.order, asked.asynchronous, keywords=asked.keywords)
            ]
            return function

        return declare

    @overload
    def handles(self, function: F, /) -> F: ...

    @overload
    def handles(
        self,
        *,
        entity: type | None = None,
        id: str | None = None,
        repository: Repository[Any] | None = None,
        name: str | None = None,
    ) -> Callable[[F], F]: ...

    def handles(
        self,
        function: Any = None,
        *,
        entity: type | None = None,
        id: str | None = None,
        repository: Repository[Any] | None = None,
        name: str | None = None,
    ) -> Any:
        """Declare the handler of a command: `@customers.handles` above `def reserve(customer: Customer, command:
        ReserveCredit) -> CreditReserved`. Parameters as for `on`.

        What it returns is the reply, of the class that the command declares; with an entity that it makes,
        `return customer, CreditReserved(...)`. A Failure that it raises is the answer, and nothing of its step is kept;
        one that it returns is the answer, and what the step did is kept. Any other exception is no answer: the command
        is tried again, as an event is.
        Raises UsageError at once when the declaration cannot work; its text says what to write instead.
        """
        local_names = sys._getframe(1).f_locals  # as in `on`

        def declare(function: F) -> F:
            called = name or name_of(function)
            where = f"handler {self.name}.{called}"
            handler, *others = self._handlers_of(function, called, entity, id, repository, local_names)
            spec = handler.command
            if spec is None or others:
                shown = " | ".join(each.event.cls.__qualname__ for each in (handler, *others))
                raise UsageError(
                    f"{where} takes {shown}, expected one command"
                    + ("" if spec is not None else f": what follows from an event is declared with @{self.name}.on")
                )
            self._check_handled(spec, where, called)
            check_returns(handler, where, local_names)
            _check_sessions(self.name, [handler])
            self._handlers[spec.type] = [handler]
            return function

        return declare if function is None else declare(function)

    def _handled(self, command: type, where: str, called: str) -> CommandType[Any]:
        """The command that a saga handles. Raises UsageError."""
        spec: EventType[Any] | None = event_type(command) if is_event_class(command) else None
        if not isinstance(spec, CommandType):
            raise UsageError(f"{where}: handles={command!r:.100}, expected the class of a command")
        self._check_handled(spec, where, called)
        return spec

    def _check_handled(self, spec: CommandType[Any], where: str, called: str) -> None:
        if spec.service != self.name:
            raise UsageError(
                f"{where} takes {spec.cls.__qualname__}, a command for service {spec.service}: declare it with "
                f"@{spec.service}.handles, or the command with service={self.name!r}"
            )
        for other in self._handlers.get(spec.type, ()):
            if other.starts is None or other.name != called:
                raise UsageError(
                    f"service {self.name} has two handlers of {spec.type}, {other.name} and {called}: a command has "
                    "one answer, so it has one handler"
                )

    @overload
    def local(self, function: F, /) -> F: ...

    @overload
    def local(self, *, id: str | None = None, name: str | None = None) -> Callable[[F], F]: ...

    def local(self, function: Any = None, *, id: str | None = None, name: str | None = None) -> Any:
        """Declare a local step of sagas: `@orders.local` above `def open_order(order: Order, order_id: UUID)`, for
        `await saga.local(open_order, order_id)`.

        It takes an entity, `Step`, `Message`, `AsyncSession` (async def) or `Session` (def) by their annotations, as a
        handler does; whatever else it takes are its arguments, which are kept as JSON. What it returns besides its
        entity is its result, of the type that it is annotated with. A Failure that it raises is raised in the saga, and
        nothing of the step is kept; one that it returns is raised there too, and what the step did is kept.

        id: the argument with the entity's id, else as for `on`. name: else the function's. By its name and arguments
        it is kept in the database, through deployments.
        Raises UsageError at once when the declaration cannot work; its text says what to write instead.
        """
        local_names = sys._getframe(1).f_locals  # as in `on`

        def declare(function: F) -> F:
            called = name or name_of(function)
            where = f"local step {self.name}.{called}"
            self._check_named(function, called, where, "local")
            self._named[function] = local_step(
                function,
                self.name,
                called,
                is_entity=lambda kind: isinstance(kind, type) and (kind in self._repositories or is_mapped(kind)),
                repository_of=lambda entity, parameter: self._repository(entity, None, where, parameter),
                id=id,
                local_names=local_names,
            )
            return function

        return declare if function is None else declare(function)

    @overload
    def outside(self, function: F, /) -> F: ...

    @overload
    def outside(self, *, name: str | None = None) -> Callable[[F], F]: ...

    def outside(self, function: Any = None, *, name: str | None = None) -> Any:
        """Declare an outside function of sagas: `@orders.outside` above `async def send_receipt(email: str, key:
        EffectKey) -> None`, for `await saga.outside(send_receipt, new.email)`.

        It runs in no transaction, at least once. A parameter that is annotated `EffectKey` is given the key of the
        effect, which is the same each time; whatever else it takes are its arguments, which are kept as JSON. What it
        returns is its result, of the type that it is annotated with. A Failure that it raises says that nothing was
        done, and is raised in the saga; after any other exception it is called again.

        name: else the function's. By its name and arguments it is kept in the database, through deployments.
        Raises UsageError at once when the declaration cannot work; its text says what to write instead.
        """
        local_names = sys._getframe(1).f_locals  # as in `on`

        def declare(function: F) -> F:
            called = name or name_of(function)
            self._check_named(function, called, f"outside function {self.name}.{called}", "outside")
            self._named[function] = outside_function(function, self.name, called, local_names)
            return function

        return declare if function is None else declare(function)

    def _check_named(self, function: Any, called: str, where: str, decorator: str) -> None:
        if not _SAGA_NAME.fullmatch(called):
            raise UsageError(
                f'{where}: give it a name of letters, digits, - and _, at most 63: {decorator}(name="...")'
            )
        if isinstance(function, Hashable) and function in self._named:
            raise UsageError(f"{where} is declared already, as {self._named[function].where}")
        if any(each.name == called for each in self._named.values()):
            raise UsageError(
                f"service {self.name} has two local steps or outside functions named {called!r}: give one another name"
            )

    @overload
    def saga(self, function: F, /) -> F: ...

    @overload
    def saga(
        self,
        *,
        version: int = 1,
        deadline: datetime.timedelta | None = None,
        name: str | None = None,
        handles: type | None = None,
    ) -> Callable[[F], F]: ...

    def saga(
        self,
        function: Any = None,
        *,
        version: int = 1,
        deadline: datetime.timedelta | None = None,
        name: str | None = None,
        handles: type | None = None,
    ) -> Any:
        """Declare a saga: `@orders.saga(deadline=timedelta(hours=1))` above `async def place_order(saga: Saga, new:
        PlaceOrder) -> None`; `step.start(place_order, request, id=...)` starts one.

        The function is run again from its beginning at each continuation, fed with what is in its journal, and awaits
        nothing but operations of `Saga`. A Failure that leaves it before its pivot undoes what it has done.

        version: raise it when the function would ask for other things than before; the old one stays beside the new
        one, under the same name, as long as there are sagas of it. deadline: a saga that is not past its pivot by then
        is undone. name: else the function's. Sagas are kept by it, through deployments.
        handles: a command for this service, which starts the saga as its request, under its message id. Its answer is
        what the function returns, or for what the saga was undone; while that is parked, who asked waits. Of several
        versions that handle it the highest does.
        Raises UsageError at once when the declaration cannot work; its text says what to write instead.
        """
        local_names = sys._getframe(1).f_locals  # as in `on`

        def declare(function: F) -> F:
            called = name or name_of(function)
            if not _SAGA_NAME.fullmatch(called):
                raise UsageError(
                    f"saga {self.name}.{called}: a name of letters, digits, - and _, at most 63, is kept in the "
                    f'database: give it one, @{self.name}.saga(name="...")'
                )
            spec = None if handles is None else self._handled(handles, f"saga {self.name}.{called}", called)
            code = saga_code(
                function,
                self.name,
                called,
                version,
                deadline,
                saga_class=Saga,
                calls=self.calls,
                named=self._named,
                handles=spec,
                local_names=local_names,
            )
            if (called, version) in self._sagas:
                raise UsageError(
                    f"service {self.name} has two sagas {called!r} of version {version}: give one another version= or "
                    "name="
                )
            self._sagas[called, version] = code
            for each in (SAGA, TOLD):
                self._handlers[each] = [wake_handler(self.name, each)]
            if spec is not None and version == max(each for name, each in self._sagas if name == called):
                self._handlers[spec.type] = [Handler(called, spec, _begun, (EVENT,), True, starts=code.begins)]
            function.__ensue_saga__ = code  # type: ignore[attr-defined]  # by it a step finds what it starts
            return function

        return declare if function is None else declare(function)

    def _handlers_of(
        self,
        function: Callable[..., Any],
        called: str,
        entity: type | None,
        id: str | None,
        given: Repository[Any] | None,
        local_names: Mapping[str, Any],
    ) -> list[Handler]:
        """One for each event that the function takes."""
        where = f"handler {self.name}.{called}"
        if entity is not None and not isinstance(entity, type):
            raise UsageError(f"{where}: entity={entity!r} is no class; write the class itself, e.g. entity=Customer")
        asked = read_parameters(function, where, entity, local_names)
        if asked.entity is None:
            if id or given:
                raise UsageError(f"{where}: id= and repository= belong to an entity, and no parameter takes one")
            return [
                Handler(called, event, function, asked.order, asked.asynchronous, keywords=asked.keywords)
                for event in asked.events
            ]
        repository = self._repository(asked.entity, given, where, asked.entity_parameter)
        return [
            Handler(
                called, event, function, asked.order, asked.asynchronous, asked.entity, repository,
                *id_field(event.cls, asked.entity, repository, id, where), asked.optional,
                keywords=asked.keywords,
            )
            for event in asked.events
        ]  # fmt: skip

    def _aggregate(self, cls: type[Aggregate], where: str) -> AggregateRepository:
        """Its repository. Raises UsageError for what is none, and where its events would not be kept for good."""
        if cls in self._repositories:
            raise UsageError(
                f"{where}: {cls.__qualname__} is declared twice, or has a repository of its own: leave that out"
            )
        repository, kind = AggregateRepository(cls), kind_of(cls)
        for other in self.aggregates:
            if other.__ensue_stream__ == kind.stream:
                raise UsageError(
                    f"{where}: {cls.__qualname__} and {other.__qualname__} have one stream, {kind.stream!r}: give one "
                    "another name, stream="
                )
        pruned = sorted({event_type(each).topic for each in kind.evolvers} & self.prunes)
        if pruned:
            raise UsageError(
                f"{where}: {cls.__qualname__} is made of events of topic {pruned[0]!r}, which service {self.name} "
                "prunes: what carries a stream is never pruned, so leave it out of prunes="
            )
        self._repositories[cls] = repository
        return repository

    def _repository(self, entity: type, given: Repository[Any] | None, where: str, parameter: str) -> Repository[Any]:
        known = self._repositories.get(entity)
        if given is not None:
            if known is not None and known != given:
                raise UsageError(
                    f"{where}: {entity.__name__} has another repository already, and a batch must not hold two copies "
                    "of one row: use one for all handlers, best in Service(..., repositories=[...])"
                )
            known = self._repositories[entity] = known or given
        elif known is None and is_aggregate(entity):
            known = self._aggregate(entity, where)
        elif known is None:
            if not is_mapped(entity):
                if hasattr(entity, "metadata"):
                    raise UsageError(
                        f"{where}: parameter {parameter!r} is annotated {entity.__name__}, which has no table of its "
                        "own (it is abstract, or a base of others): annotate a class that is mapped to one"
                    )
                raise UsageError(
                    f"{where}: parameter {parameter!r} is annotated {entity.__name__}, which is no declared event, nor "
                    "Step, Message, AsyncSession (async def) or Session (def), nor a class mapped by SQLAlchemy. If it "
                    f"is an entity, declare how it is stored: Service({self.name!r}, repositories=[TableRepository("
                    f"{entity.__name__}, table)]), or pass repository= with load and save of your own. Anything "
                    f"else is bound, {self.signs_as}.on(functools.partial(function, {parameter}=...)), or the handler "
                    "is a method of what has it"
                )
            known = self._repositories[entity] = SqlAlchemyRepository(entity)
        table = getattr(known, "table_name", None)
        for other, repository in self._repositories.items():
            if (
                other is not entity
                and table is not None
                and getattr(repository, "table_name", None) == table
                and getattr(repository, "root", repository) is not getattr(known, "root", known)  # of one hierarchy
            ):
                raise UsageError(
                    f"{where}: {entity.__name__} and {other.__name__} are both stored in table {table}, and a batch "
                    "must not hold two copies of one row: use one class for all handlers"
                )
        return known


def _listed(service: str, option: str, given: Iterable[type]) -> tuple[type, ...]:
    if isinstance(given, type | str):
        shown = given if isinstance(given, str) else given.__name__
        raise UsageError(f"service {service}: {option}={shown} is no list; write {option}=[{shown}]")
    return tuple(given)


def _classes(service: str, option: str, given: Iterable[type]) -> tuple[type, ...]:
    """The events, or commands, that a declaration lists."""
    classes = _listed(service, option, given)
    for cls in classes:
        event_type(cls)
    return classes


async def _begun(command: Any) -> None:
    """Of a command that starts a saga: the engine does that."""


def _earliness(since: Since) -> float:
    if isinstance(since, datetime.datetime):
        return since.timestamp()
    return float("-inf") if since == "beginning" else float("inf")


def _checked_since(since: Any, where: str) -> Since:
    if since in ("beginning", "now"):
        return since  # type: ignore[no-any-return]  # one of the two
    if isinstance(since, datetime.datetime) and since.tzinfo is not None:
        return since
    raise UsageError(f'{where}: since={since!r}, expected "beginning", "now" or a datetime with a time zone')


def _check_sessions(service: str, handlers: Sequence[Handler]) -> None:
    """All handlers of one event share a transaction, which has one session, for threads or for the event loop."""
    threads = next((each for each in handlers if SYNC_SESSION in each.order), None)
    loop = next(
        (each for each in handlers if SESSION in each.order or isinstance(each.repository, SqlAlchemyRepository)), None
    )
    if threads is not None and loop is not None:
        why = "AsyncSession" if loop.entity is None else f"the entity {loop.entity.__name__}, mapped by SQLAlchemy"
        raise UsageError(
            f"service {service}: handler {threads.name} of {threads.event.type} takes Session, and handler {loop.name} "
            f"takes {why}, which needs the async one; their step has one session: make {threads.name} an "
            "async def with AsyncSession"
        )
