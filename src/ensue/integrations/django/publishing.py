"""`publish` in a transaction of Django's: an INSERT on Django's own connection, so it goes with its savepoint.

What is written is made by the same code as for sessions of the user's (`ensue.sessions`): SQLAlchemy makes the
statements, and sends them on the connection that Django has open. It neither begins nor ends anything there.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.transaction import mark_for_rollback_on_error
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ensue.errors import UsageError
from ensue.event import event_type
from ensue.integrations.django.service import of_thread
from ensue.sessions.publisher import Publisher
from ensue.step import Outgoing
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
        service = self._service
        connection: Any = connections[service.using]
        self._check(connection, events)
        publishing = self._publisher.begin()
        drafts = [publishing.draft(each, extensions, after, at) for each in events]
        with mark_for_rollback_on_error(using=service.using), connection.wrap_database_errors:
            # A part of the records may be in when it fails: so what encloses this must not commit.
            try:
                with self._connect(connection) as sent:
                    publishing.write(sent, drafts)
            except DBAPIError as error:
                raise (error.orig or error) from error  # as Django knows it
        published_types.update((event_type(type(each)).type, type(each)) for each in events)
        transaction.on_commit(publishing.outbox.committed, using=service.using, robust=True)

    def outgoing(self) -> Outgoing:
        """For a step whose events are published here."""
        return self._publisher.outgoing(self._service.settings())

    def _check(self, connection: Any, events: Sequence[object]) -> None:
        # Of a TestCase, which has atomic blocks of its own around each test: those are none of the code that it tests.
        inside = connection.in_atomic_block and any(not each._from_testcase for each in connection.atomic_blocks)
        if not inside:
            names = ", ".join(dict.fromkeys(type(each).__qualname__ for each in events))
            raise UsageError(
                f"publish({names}) outside of a transaction: the event goes out if and only if the rows that it tells "
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


def publish(
    service: DjangoService,
    events: Sequence[object],
    extensions: Mapping[str, str] | None,
    after: datetime.timedelta | None,
    at: datetime.datetime | None,
) -> None:
    """In a handler with its step, else in Django's transaction."""
    step = of_thread.step
    if step is None:
        service.outlet.publish(events, extensions, after, at)
        return
    for each in events:
        step.publish(each, extensions, after=after, at=at)
