"""What the outboxes for sessions of the user's share, whichever the database: the `SessionOutbox` port in part.

Statements are SQLAlchemy's texts with named parameters, so every driver of the user's takes them; table names are
written out, so that a `schema_translate_map` of the user's does not lead them elsewhere.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, Engine, TextClause, bindparam, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import BigInteger, Double, LargeBinary, Text, TypeEngine

from ensue.addresses import masked
from ensue.errors import UsageError
from ensue.ports import Kind, Row, Table

_TYPES: dict[Kind, TypeEngine[Any]] = {
    Kind.NAME: Text(), Kind.TEXT: Text(), Kind.BYTES: LargeBinary(), Kind.INT: BigInteger(), Kind.FLOAT: Double(),
}  # fmt: skip
_META = "ensue_meta"


class SessionTables:
    """Ensue's own tables through a connection of the user's.

    service: whose they are to be. place: where, safe to show. names: of SQLAlchemy's dialects for this kind of
    database. schema: where the tables are; empty: where unqualified names lead. quote: what stands around a name.
    """

    def __init__(self, service: str, place: str, names: Sequence[str], *, schema: str = "", quote: str = '"') -> None:
        self.service = service
        self.place = place
        self._names = names
        self._schema = schema
        self._quote = quote
        #: Engines whose database has the tables, as was seen once.
        self._known: weakref.WeakSet[Engine] = weakref.WeakSet()

    def check(self, connection: Connection) -> None:
        found = connection.dialect.name
        if found not in self._names:
            raise UsageError(
                f"service {self.service} has its database at {self.place}, and this session is one of {found}, at "
                f"{shown(connection)}: an event goes into the outbox of its service, in the transaction of the rows it "
                f"tells of. Publish in a session of that database, or give Service({self.service!r}, database=) yours",
                expected=" or ".join(self._names),
                found=found,
            )
        if _autocommits(connection):
            raise UsageError(
                f"service {self.service}: this session's connection has isolation_level AUTOCOMMIT, so each statement "
                "is a transaction of its own, and an event could be kept without its rows: publish in a session whose "
                "engine has another isolation level",
                found="AUTOCOMMIT",
            )

    def check_savepoint(self, connection: Connection) -> None:
        """On a server a savepoint is always inside of a transaction."""

    def table(self, name: str) -> str:
        """The name as it stands in a statement."""
        return f"{self.quoted(self._schema)}.{self.quoted(name)}" if self._schema else self.quoted(name)

    def quoted(self, name: str) -> str:
        return self._quote + name.replace(self._quote, self._quote * 2).replace(":", "\\:") + self._quote

    def one(self, connection: Connection, statement: TextClause, *before: TextClause) -> Sequence[Any]:
        """The one row of a query of Ensue's tables, after other statements. Raises UsageError when these are not
        there."""
        engine = connection.engine
        if engine not in self._known:
            # Asked before, and not found out by a failure: that would end the transaction, on PostgreSQL.
            if not inspect(connection).has_table(_META, schema=self._schema or None):
                raise self._missing(connection)
            self._known.add(engine)
        try:
            for each in before:
                connection.execute(each)
            row = connection.execute(statement).one_or_none()
        except DBAPIError:
            self._known.discard(engine)  # somebody may have dropped them
            raise
        if row is None:
            raise self._missing(connection)
        return row

    def _missing(self, connection: Connection) -> UsageError:
        return UsageError(
            f"service {self.service} publishes in a session at {shown(connection)}, where Ensue's tables are not: make "
            f"them, `ensue db init MODULE:NAME` or a migration; or the session is one of another database than the "
            f"service's, which is at {self.place}",
            service=self.service,
            expected=self.place,
            found=shown(connection),
        )

    def load_rows(self, connection: Connection, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        return [tuple(row) for row in connection.execute(self._select(table), {"ids": list(ids)})]

    def insert_rows(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        if rows:
            connection.execute(self._insert(table), [{f"p{at}": each for at, each in enumerate(row)} for row in rows])

    def _select(self, table: Table) -> TextClause:
        columns, key = ", ".join(map(self.quoted, table.columns)), self.quoted(table.id_column)
        wanted: BindParameter[Any] = bindparam("ids", expanding=True)
        return text(f"SELECT {columns} FROM {self.table(table.name)} WHERE {key} IN :ids").bindparams(wanted)

    def _insert(self, table: Table) -> TextClause:
        return self.insert(table.name, table.columns, [_TYPES[kind] for kind in table.kinds])

    def insert(self, name: str, columns: Sequence[str], types: Sequence[TypeEngine[Any]]) -> TextClause:
        """An INSERT with the parameters p0, p1, ..."""
        into = f"{self.table(name)} ({', '.join(map(self.quoted, columns))})"
        values = ", ".join(f":p{at}" for at in range(len(columns)))
        parameters = [bindparam(f"p{at}", type_=each) for at, each in enumerate(types)]
        return text(f"INSERT INTO {into} VALUES ({values})").bindparams(*parameters)


def shown(connection: Connection) -> str:
    """Where a connection of the user's leads, without its secrets."""
    return masked(connection.engine.url.render_as_string(hide_password=True))


def _autocommits(connection: Connection) -> bool:
    """Whether it was set so, on the connection, on its engine, or when the engine was made."""
    level = connection.get_execution_options().get("isolation_level")
    if level is None:
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    return str(level).upper() == "AUTOCOMMIT"
