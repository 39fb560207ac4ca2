"""`DjangoService`: a service in a database of Django's, whose handlers use the ORM in the transaction of their step."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections, connections, models

from ensue.app import Service
from ensue.config import Settings
from ensue.errors import UsageError
from ensue.handler import ENTITY, STEP, SYNC_SESSION, Handler
from ensue.handling import by_place, is_async, wraps_async
from ensue.integrations.django.lending import lent, no_statements
from ensue.integrations.django.repository import DjangoRepository
from ensue.integrations.django.urls_of import database_url, is_in_memory
from ensue.ports import Store
from ensue.repository import Repository
from ensue.service import _classes
from ensue.step import Step
from ensue.variables import Source

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ensue.integrations.django.publishing import Outlet


class _OfThread(threading.local):
    """step: that of the handler that runs in this thread, or entity step.

    As Django's connections it belongs to a thread, and not to the context, which `sync_to_async` and others take along
    into threads that have connections of their own: what is published there goes with the rows that are written there.
    """

    step: Step | None = None


of_thread = _OfThread()
#: Those of this process, by name: the project's, and what else its modules declare.
services: weakref.WeakValueDictionary[str, DjangoService] = weakref.WeakValueDictionary()


class DjangoService(Service):
    """As `Service`, with the database that Django's connection `using` has.

    Its handlers are plain functions. While one runs, Django's connection of that alias is the step's: what the ORM
    writes, what is published and the subscription's progress are one transaction. An entity that is a Django model is
    loaded by select_for_update, and saved in bulk (see `DjangoRepository`).

    using: an alias of DATABASES. store_options: those of the store's URL, `{"outbox": "wal"}` say. All else as for
    `Service`; tables are for migrations, so there is no `tables`, and no `connect_args`.
    """

    def __init__(
        self, name: str, *, using: str = "default", store_options: Mapping[str, object] | None = None, **options: Any
    ) -> None:
        for each in ("database", "tables", "connect_args"):
            if each in options:
                raise UsageError(f"DjangoService({name!r}, {each}=...): Django's DATABASES says that; leave it out")
        super().__init__(name, **options)
        self.using = using
        services[name] = self
        self._store_options = dict(store_options or {})
        self._outlet: Outlet | None = None

    def declare_publications(self, classes: Iterable[type]) -> None:
        """As `publishes=`, for a project whose events are declared later than its service."""
        self.publishes = _classes(self.name, "publishes", classes)

    @property
    def outlet(self) -> Outlet:
        """By which events are published in transactions of Django's."""
        if self._outlet is None:
            from ensue.integrations.django.publishing import Outlet

            self._outlet = Outlet(self)
        return self._outlet

    def settings(self) -> Settings:
        self._read_databases()
        return super().settings()

    def setting_sources(self) -> Mapping[str, Source]:
        self._read_databases()
        return super().setting_sources()

    def _read_databases(self) -> None:
        """Each time: a test run gives a connection another database."""
        self._given["database"] = database_url(connections[self.using], self._store_options)

    @property
    def outbox_mode(self) -> str:
        """How positions are found, see `?outbox=` of the store."""
        return str(self._store_options.get("outbox", "poll"))

    def make_store(self) -> Store:
        if is_in_memory(self.settings().database):
            raise UsageError(
                f"service {self.name}: DATABASES[{self.using!r}] is in the memory of Django's own connection, and a "
                "worker has others: give NAME a file. In tests: deliver(event)"
            )
        return super().make_store()

    def _is_entity(self, kind: type) -> bool:
        return issubclass(kind, models.Model) or super()._is_entity(kind)

    def _called(self, handler: Handler) -> Handler:
        return self._with_orm(handler)

    def _handlers_of(self, *given: Any, **more: Any) -> list[Handler]:
        return [self._with_orm(each) for each in super()._handlers_of(*given, **more)]

    def every(self, *given: Any, **options: Any) -> Any:
        declare = super().every(*given, **options)

        def declared(function: Any) -> Any:
            before = dict(self._handlers)
            result = declare(function)
            for kind, handlers in self._handlers.items():
                if kind not in before:
                    self._handlers[kind] = [self._with_orm(each) for each in handlers]
            return result

        return declared

    def _with_orm(self, handler: Handler) -> Handler:
        """The handler, called with Django's connection in its place."""
        function = by_place(handler.function, handler.keywords)
        if is_async(handler.function) or wraps_async(handler.function):
            raise UsageError(
                f"{handler.where} is async, and Django's ORM has no transactions there: write it as a plain def"
                + (", which runs in a thread of its own" if handler.entity is None else "")
            )
        if handler.entity is not None:
            repository: Any = handler.repository
            at = handler.order.index(ENTITY) if isinstance(repository, DjangoRepository) else None
            # Else Django itself refuses its connections on an event loop.
            unsafe = bool(os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"))

            @functools.wraps(handler.function)
            def called(*values: Any) -> Any:
                *wanted, step = values
                if at is not None and wanted[at] is not None and repository.unsettled(wanted[at]):
                    raise UsageError(
                        f"{handler.where} was given an entity in which another handler of the same event has left an "
                        "expression, so that it cannot be read: set plain values, the row is locked",
                    )
                before, of_thread.step = of_thread.step, step
                try:
                    if not unsafe:
                        return function(*wanted)
                    try:
                        with no_statements(self.using):
                            return function(*wanted)
                    finally:
                        connections[self.using].close()  # one of this call alone
                finally:
                    of_thread.step = before

            return _instead(handler, called, STEP)

        @functools.wraps(handler.function)
        def called_with_orm(*values: Any) -> Any:
            *wanted, step, session = values
            return self.call_with_orm(step, session, function, wanted)

        return _instead(handler, called_with_orm, STEP, SYNC_SESSION)

    def call_with_orm(self, step: Step, session: Session, function: Callable[..., Any], wanted: Any) -> Any:
        close_old_connections()  # those of other aliases live as long as in a request: dead ones are opened anew
        before, of_thread.step = of_thread.step, step
        try:
            with lent(self.using, session):
                return function(*wanted)
        finally:
            of_thread.step = before
            close_old_connections()

    def _repository(self, entity: type, given: Repository[Any] | None, where: str, parameter: str) -> Repository[Any]:
        if given is None and isinstance(entity, type) and issubclass(entity, models.Model):
            given = self.repositories.get(entity) or DjangoRepository(entity)
        if isinstance(given, DjangoRepository):
            given.bind(self.using)
        return super()._repository(entity, given, where, parameter)


def _instead(handler: Handler, function: Any, *more: int) -> Handler:
    """The handler with this function, which takes `more` behind what the declared one takes."""
    function.__ensue_declared__ = handler
    return dataclasses.replace(handler, function=function, order=(*handler.order, *more), keywords=())


def as_declared(handler: Handler) -> Handler:
    """A handler of a `DjangoService` as it was before it was given Django's connection."""
    declared: Handler = getattr(handler.function, "__ensue_declared__", handler)
    return declared
