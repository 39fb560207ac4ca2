"""Django's connection in a handler is the one of the step: what the ORM does there commits with it, or not at all.

While a handler runs in its thread, `connections[alias]` is a DatabaseWrapper of the same backend whose cursors send
each statement through the step's own gate, as a SQLAlchemy session's go. To Django it looks as if it were inside of an
`atomic` block: `atomic` makes savepoints, and nothing in it commits. See docs/adr/0056.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from django.db import connections
from django.db.backends.signals import connection_created
from django.db.transaction import Atomic
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from ensue.errors import UsageError
from ensue.integrations.django import after_commit

_of_thread = threading.local()


@contextmanager
def lent(alias: str, session: Session) -> Iterator[None]:
    """In this thread Django's connection of that alias is the one of the session's step. For a plain session of a step.

    Raises UsageError when an error of the database was caught inside, so that the step would commit a part.
    """
    own = connections[alias]
    wrapper = _wrapper_of(alias, type(own), own.settings_dict)
    wrapper.lend(session.get_bind())
    connections[alias] = wrapper
    try:
        wrapper.announce()
        yield
        check_not_broken(wrapper)
        if wrapper.savepoint_ids:
            raise UsageError(
                "the handler has left a savepoint open, of an atomic block that was entered and not left: use "
                "`with transaction.atomic():`"
            )
        after_commit.remember(session, [call for _, call, _ in wrapper.run_on_commit])
    finally:
        connections[alias] = own
        wrapper.take_back()


def check_not_broken(connection: Any) -> None:
    """Raise UsageError when Django has marked the transaction for rollback."""
    if connection.needs_rollback:
        raise UsageError(
            "the step cannot commit, since Django has marked its transaction for rollback: an error of the "
            "database was caught in it. Let it pass, or put what may fail into `with transaction.atomic():`",
            caught=connection.rollback_exc,
        )


@contextmanager
def no_statements(alias: str) -> Iterator[None]:
    """In this thread Django sends nothing to that database: around an entity step, which is called on the event loop,
    where its connection is not the step's; and in a test of one, which is to find that out."""
    with connections[alias].execute_wrapper(_no_statement):
        yield


def _no_statement(execute: Any, sql: str, *_: Any) -> NoReturn:
    raise UsageError(
        f"a statement in an entity step, which is called without a database: {sql[:100]!r}. Use what the entity and "
        "the event hold, or write the handler without an entity: it may use the ORM"
    )


def _wrapper_of(alias: str, backend: type, settings: dict[str, Any]) -> Any:
    """One for each thread and alias, so that Django asks only once what its database can do."""
    known: dict[tuple[str, type], Any] = _of_thread.__dict__.setdefault("wrappers", {})
    found = known.get((alias, backend))
    if found is None or found.settings_dict is not settings:
        found = known[alias, backend] = _lent_class(backend)(settings, alias)
    return found


@functools.cache
def _lent_class(backend: Any) -> Any:
    driver: Any
    if backend.vendor == "sqlite":
        from ensue.integrations.django import lent_sqlite as driver
    elif backend.vendor == "postgresql":
        from ensue.integrations.django import lent_postgres as driver
    else:
        raise UsageError(
            f"Ensue shares no transaction with Django's backend {backend.__module__}", found=backend.vendor
        )

    class Lent(backend):
        """Lent for one handler at a time. What would begin, end or leave the transaction is refused.

        To receivers of `connection_created` it is a new connection in each step: what they set in one may be taken back
        with it, or when the store has its connection again. announcing: they are called now.
        """

        of_backend = backend
        announcing = False
        _last: weakref.ref[Connection] | None = None

        def lend(self, bound: Connection) -> None:
            self._bound: Connection | None = bound
            if fresh := self._last is None or self._last() is not bound:
                self._last = weakref.ref(bound)
                self.adapters: Any = None  # of a driver that has some: types that receivers register
                self.execute_wrappers: list[Any] = []
                self.force_debug_cursor = False
                self.queries_log.clear()
            self._unannounced = fresh
            self.connection = driver.raw_connection(bound, self)
            self.in_atomic_block = True
            self.autocommit = False
            self.commit_on_exit = True  # else the end of an inner block would be that of the whole
            self.needs_rollback = self.closed_in_transaction = self.health_check_enabled = False
            self.rollback_exc = None
            self.savepoint_state = 0
            self.savepoint_ids: list[str | None] = []
            self.run_on_commit: list[Any] = []
            self.run_commit_hooks_on_set_autocommit_on = False
            # By it `atomic(durable=True)` sees that it is not the outermost.
            self.atomic_blocks = [Atomic(self.alias, savepoint=True, durable=False)]

        def announce(self) -> None:
            """As Django tells of a connection that it has opened, in the same thread and before its first statement."""
            if self._unannounced:
                self.announcing = True
                try:
                    connection_created.send(sender=backend, connection=self)
                finally:
                    self.announcing = False

        def take_back(self) -> None:
            self.connection = self._bound = None
            self.in_atomic_block = False
            self.run_on_commit = []

        def create_cursor(self, name: str | None = None) -> Any:
            if self._bound is None:
                _refuse("a statement after its handler has ended")
            return driver.new_cursor(self, self._bound)

        def chunked_cursor(self) -> Any:
            return self.cursor()  # one that the server keeps would outlive the gate

        def close_if_unusable_or_obsolete(self) -> None:
            """It is neither: how old a connection of the store's may be is the store's affair, not CONN_MAX_AGE's."""

        def connect(self) -> NoReturn:
            _refuse("a connection of its own")

        def _close(self) -> NoReturn:
            _refuse("close()")

        def _commit(self) -> NoReturn:
            _refuse("commit()")

        def _rollback(self) -> NoReturn:
            _refuse("rollback()")

        def _set_autocommit(self, autocommit: bool) -> NoReturn:
            _refuse("set_autocommit()")

    return Lent


def _refuse(what: str) -> NoReturn:
    raise UsageError(
        f"{what} on Django's connection in a handler: it is the step's, which commits when the handler returns and "
        "rolls back when it raises an error. Remove it; a part is undone with `with transaction.atomic():`"
    )
