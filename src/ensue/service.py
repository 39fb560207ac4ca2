"""How a user declares a service: `@orders.on`, `every`, `handles`; of sagas `local`, `outside`, `saga`. No I/O here.

Each decorator checks at once what it is given, so that mistakes show where they are made. What comes of it: see
`definition`.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from ensue.catch_up import Since, checked_since
from ensue.command import CommandType
from ensue.definition import ServiceDefinition as ServiceDefinition  # others import it from here
from ensue.definition import _classes as _classes
from ensue.errors import UsageError
from ensue.event import EventType, event_type, is_event_class
from ensue.handler import EVENT, Handler, id_field, read_parameters
from ensue.handling import name_of
from ensue.mapped import is_mapped
from ensue.message import SAGA, TOLD
from ensue.one_session import check_sessions
from ensue.repositories import repository_for
from ensue.repository import Repository
from ensue.returns import check_returns
from ensue.saga.code import saga_code
from ensue.saga.local import local_step
from ensue.saga.named import check_named
from ensue.saga.outside import outside_function
from ensue.saga.saga import Saga
from ensue.saga.wake import NAME as _SAGA_NAME
from ensue.saga.wake import wake_handler
from ensue.schedule import Missed, schedule_of

F = TypeVar("F", bound=Callable[..., Any])
_RECURRING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")


class ServiceDeclaration(ServiceDefinition):
    """The part of `ensue.Service` that is written above functions."""

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
        if not isinstance(self, ServiceDeclaration):
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
                handler = dataclasses.replace(handler, since=checked_since(since, f"handler {self.name}.{called}"))
                others = self._handlers.setdefault(handler.event.type, [])
                if any(each.name == called for each in others):
                    raise UsageError(
                        f"service {self.name} has two handlers named {called!r} for {handler.event.type}: "
                        f'give one another name, @{self.name}.on(name="...")'
                    )
                check_sessions(self.name, [*others, handler])
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
            check_sessions(self.name, [handler])
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
            check_named(self.name, self._named, function, called, where, "local")
            step = local_step(
                function,
                self.name,
                called,
                is_entity=lambda kind: isinstance(kind, type) and self._is_entity(kind),
                repository_of=lambda entity, parameter: self._repository(entity, None, where, parameter),
                id=id,
                local_names=local_names,
            )
            self._named[function] = dataclasses.replace(step, handler=self._called(step.handler))
            return function

        return declare if function is None else declare(function)

    def _is_entity(self, kind: type) -> bool:
        """Whether a local step loads and saves it, so that it is no argument."""
        return kind in self._repositories or is_mapped(kind)

    def _called(self, handler: Handler) -> Handler:
        """A local step as it is called: for services that give it more than it asks for."""
        return handler

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
            check_named(self.name, self._named, function, called, f"outside function {self.name}.{called}", "outside")
            self._named[function] = outside_function(function, self.name, called, local_names)
            return function

        return declare if function is None else declare(function)

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

    def _repository(self, entity: type, given: Repository[Any] | None, where: str, parameter: str) -> Repository[Any]:
        return repository_for(self._repositories, entity, given, where, parameter, self.name, self.prunes)


async def _begun(command: Any) -> None:
    """Of a command that starts a saga: the engine does that."""
