"""`publish` in a transaction of Django's: an INSERT on Django's own connection, so it goes with its savepoint.

What is written is made by the same code as for sessions of the user's (`ensue.sessions`): SQLAlchemy makes the
statements, and sends them on the connection that Django has open. It neither begins nor ends anything there.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.transaction import mark_for_rollback_on_error
from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ensue.command import Command
from ensue.errors import UsageError
from ensue.event import event_type
from ensue.integrations.django.service import of_thread, services
from ensue.message import StoredResponse
from ensue.sessions.publisher import Publisher
from ensue.step import Outgoing, Step
from ensue.stores.step_dialect import StepDialect

if TYPE_CHECKING:
    from ensue.integrations.django.service import DjangoService

#: Event classes that were published here, by their type on the wire.
published_types: dict[str, type] = {}


class _DjangosDialect(StepDialect):
    isolation = "it is Django's"
    supports_statement_cache = True

    def on_connect(self) -> Any:
        """Nothing: the connection stays as Django has made it."""

    def _run(self, call: Callable[..., Any], arguments: tuple[Any, ...], context: Any) -> None:
        call(*arguments)


class DjangosSqlite(_DjangosDialect, SQLiteDialect_pysqlite):
    driver = "ensue_django"
    supports_statement_cache = True


class DjangosPsycopg(_DjangosDialect, PGDialect_psycopg):
    driver = "ensue_django"
    supports_statement_cache = True


registry.register("sqlite.ensue_django", __name__, "DjangosSqlite")
registry.register("postgresql.ensue_django", __name__, "DjangosPsycopg")


class Outlet:
    """Of one service, in any thread."""

    def __init__(self, service: DjangoService) -> None:
        self._service = service
        self._publisher = Publisher(service, service.settings, service._told_limits, lambda: service.tracing)
        self._handed = threading.local()
        self._engines: dict[tuple[str, str], Engine] = {}

    def publish(
        self,
        events: Sequence[object],
        extensions: Mapping[str, str] | None = None,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> None:
        """Write events into the outbox, in the transaction that Django's connection has in this thread.

        Raises UsageError outside of `transaction.atomic`, else what `Step.publish` raises; django.db's errors.
        """

        def one(event: object) -> Callable[[Step], Any]:
            return lambda step: step.publish(event, extensions, after=after, at=at)

        names = ", ".join(dict.fromkeys(type(each).__qualname__ for each in events))
        self.say([one(each) for each in events], f"publish({names})", after)
        published_types.update((event_type(type(each)).type, type(each)) for each in events)

    def send(
        self,
        command: Command[Any],
        extensions: Mapping[str, str] | None = None,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> None:
        """As `publish`, of a command."""
        name = f"send({type(command).__qualname__})"
        self.say([lambda step: step.send(command, extensions, after=after, at=at)], name, after)
        published_types[event_type(type(command)).type] = type(command)

    def say(self, says: Sequence[Callable[[Step], Any]], call: str, after: datetime.timedelta | None = None) -> None:
        """As `publish`, of whatever a step writes one record for. call: how an error names it."""
        service = self._service
        connection: Any = _own_connection(service, call)
        self._check(connection, call)
        publishing = self._publisher.begin()
        drafts = [publishing.said(each, after) for each in says]
        with self._sending(connection) as sent:
            publishing.write(sent, drafts)
        _call_once(connection, publishing.outbox.committed)

    def answer(self, key: str) -> StoredResponse | None:
        """The answer that was given for an Idempotency-Key, as Django's transaction sees it. Raises django.db's
        errors."""
        with self._sending(_own_connection(self._service, "an Idempotency-Key")) as sent:
            return self._publisher.begin().answer(sent, key)

    def keep_answer(self, response: StoredResponse) -> None:
        """Keep an answer with Django's transaction. Raises IdempotencyConflict for a key that was answered meanwhile,
        and django.db's errors; the transaction, to its last savepoint, is to be rolled back then."""
        with self._sending(_own_connection(self._service, "an Idempotency-Key")) as sent:
            self._publisher.begin().keep_answer(sent, response)

    @contextmanager
    def _sending(self, connection: Any) -> Iterator[Connection]:
        """A part of the rows may be in when the block fails: so what encloses it must not commit."""
        with mark_for_rollback_on_error(using=self._service.using), connection.wrap_database_errors:
            try:
                with self._connect(connection) as sent:
                    yield sent
            except DBAPIError as error:
                raise (error.orig or error) from error  # as Django knows it

    def outgoing(self) -> Outgoing:
        """For a step whose events are published here."""
        return self._publisher.outgoing(self._service.settings())

    def _check(self, connection: Any, call: str) -> None:
        # Of a TestCase, which has atomic blocks of its own around each test: those are none of the code that it tests.
        inside = connection.in_atomic_block and any(not each._from_testcase for each in connection.atomic_blocks)
        if not inside:
            raise UsageError(
                f"{call} outside of a transaction: it goes out if and only if the rows that it tells "
                "of are committed. Write both inside `with transaction.atomic("
                + ("" if self._service.using == "default" else f"using={self._service.using!r}")
                + "):`, the rows first",
                service=self._service.name,
            )
        connection.validate_no_broken_transaction()

    def _connect(self, connection: Any) -> Any:
        self._handed.raw = connection.connection
        vendor, name = connection.vendor, str(connection.settings_dict["NAME"])
        engine = self._engines.get((vendor, name))
        if engine is None:
            if vendor not in ("sqlite", "postgresql"):
                self._service.settings()  # says that it is no such database
            options: dict[str, Any] = {"use_native_hstore": False} if vendor == "postgresql" else {}
            engine = self._engines[vendor, name] = create_engine(
                URL.create(f"{vendor}+ensue_django", host=connection.settings_dict["HOST"] or None, database=name),
                creator=lambda: self._handed.raw,
                poolclass=NullPool,
                pool_reset_on_return=None,
                **options,
            )
        return engine.connect()


def _own_connection(service: DjangoService, call: str) -> Any:
    """Django's connection in this thread. Raises UsageError on an event loop, where there is none."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return connections[service.using]
    if os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        return connections[service.using]
    raise UsageError(
        f"{call} on an event loop, where Django has no transactions: write the rows and publish in one plain function, "
        "with transaction.atomic() around both, and `await sync_to_async(that)()`",
        service=service.name,
    )


def _call_once(connection: Any, call: Callable[[], None]) -> None:
    """When the transaction has committed, however often something is published in it.

    Not where a TestCase rolls back: it would only be among what `captureOnCommitCallbacks` shows.
    """
    if connection.atomic_blocks and connection.atomic_blocks[0]._from_testcase:
        return
    here = set(connection.savepoint_ids)
    # One of a savepoint goes with it: it counts where this is inside of it.
    if not any(known == call and within <= here for within, known, _ in connection.run_on_commit):
        transaction.on_commit(call, using=connection.alias, robust=True)


def publish(
    service: DjangoService,
    events: Sequence[object],
    extensions: Mapping[str, str] | None,
    after: datetime.timedelta | None,
    at: datetime.datetime | None,
) -> None:
    """In a handler of the service with its step, else in Django's transaction."""
    step = step_of(service)
    if step is None:
        service.outlet.publish(events, extensions, after, at)
        return
    for each in events:
        step.publish(each, extensions, after=after, at=at)


def step_of(service: DjangoService) -> Step | None:
    """That of the service's handler that runs in this thread. One of another service has a transaction of its own."""
    step = of_thread.step
    return step if step is not None and step.outgoing.service == service.name else None


def owner(project: Callable[[], DjangoService], events: Sequence[object]) -> DjangoService:
    """Whose these events are: the service's that declares to publish them, else that of the handler that runs in this
    thread, else the project's. Raises UsageError where that is more than one."""
    step = of_thread.step
    here = None if step is None else services.get(step.outgoing.service)
    found = {each.name: each for event in events for each in _owners(type(event), here, project)}
    if len(found) > 1:
        names = ", ".join(dict.fromkeys(type(each).__qualname__ for each in events))
        raise UsageError(
            f"publish({names}): services {', '.join(sorted(found))} of this project publish that, each in its own "
            "transaction: say which, publish(..., service=...)",
            found=sorted(found),
        )
    [one] = found.values()
    if here is not None and one is not here:
        raise UsageError(
            f"publish({type(events[0]).__qualname__}) is for service {one.name}, and this is a handler of {here.name}, "
            "with whose step it would not commit. Publish an event of the handler's own service, or, knowing that it "
            "may go out although the step fails, publish(..., service=...) inside "
            f"transaction.atomic(using={one.using!r})"
        )
    return one


def _owners(cls: type, here: DjangoService | None, project: Callable[[], DjangoService]) -> Sequence[DjangoService]:
    declared = [each for each in list(services.values()) if each.publishes is not None and cls in each.publishes]
    if here is not None and (here in declared or not declared):
        return [here]
    return declared or [project()]
