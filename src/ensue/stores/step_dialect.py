"""What SQLAlchemy means by begin, commit, rollback and close does nothing here: the transaction is the step's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ensue.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection


class _Sender(NamedTuple):
    """As much of SQLAlchemy's execution context as `_run` looks at."""

    root_connection: Connection


class StepDialect:
    """Mixed into SQLAlchemy's dialect of a driver: every statement goes through `_run`."""

    #: Why no session sets an isolation level of its own.
    isolation: str

    def do_begin(self, dbapi_connection: Any) -> None: ...

    def do_commit(self, dbapi_connection: Any) -> None: ...

    def do_rollback(self, dbapi_connection: Any) -> None: ...

    def do_close(self, dbapi_connection: Any) -> None: ...

    def do_terminate(self, dbapi_connection: Any) -> None: ...

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        raise UsageError(f"isolation_level={level!r}: {self.isolation}")

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._run(cursor.execute, (statement, parameters), context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        self._run(cursor.execute, (statement,), context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._run(cursor.executemany, (statement, parameters), context)

    def run_for(self, connection: Connection, call: Callable[..., Any], *arguments: Any) -> None:
        """Call what sends a statement, whose text is the first argument, as a statement of this connection's session:
        for another layer over the drivers than SQLAlchemy (Django's), in the thread of a plain handler.

        call: on SQLite a method of a cursor of the store's own connection; else it runs in one of SQLAlchemy's
        greenlets.
        """
        self._run(call, arguments, _Sender(connection))

    def _run(self, call: Callable[..., Any], arguments: tuple[Any, ...], context: Any) -> None:
        raise NotImplementedError
