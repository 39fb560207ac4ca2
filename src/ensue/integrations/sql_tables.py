"""Ensue's tables in each SQL database, as statements: one source of truth, the stores' own schema modules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensue.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import MetaData

_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?\s*(\w+)\s*\((.*)\)", re.DOTALL)
_COLUMN = re.compile(r'^\s*"?(\w+)"? +\w', re.MULTILINE)
#: Words that begin a constraint; our columns are in lower case.
_NO_COLUMN = frozenset({"PRIMARY", "UNIQUE", "CHECK", "KEY", "INDEX", "CONSTRAINT", "FOREIGN"})


@dataclasses.dataclass(frozen=True, slots=True)
class SqlTables:
    """create: what makes the tables, in order. fill: their first rows, of one service."""

    create: Sequence[str]
    fill: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The tables, in the order of their making."""
        return [found[1] for text in self.create if (found := _TABLE.match(text))]

    def metadata(self) -> MetaData:
        """Tables and columns by name, to compare with what is there. Their types say nothing."""
        from sqlalchemy import Column, MetaData, Table, Text

        metadata = MetaData()
        for text in self.create:
            if found := _TABLE.match(text):
                names = [name for name in _COLUMN.findall(found[2]) if name not in _NO_COLUMN]
                Table(found[1], metadata, *(Column(name, Text) for name in names))
        return metadata


def sql_tables(dialect: str, service: str, outbox: str = "poll") -> SqlTables:
    """Return the tables for SQLAlchemy's name of a database. outbox: how positions are found (see the store's URL).

    Raises UsageError for a database whose tables Ensue does not know.
    """
    if dialect == "sqlite":
        from ensue.stores.sqlite import schema as sqlite

        return SqlTables(sqlite.statements(), sqlite.first_rows(service, sqlite.EPOCH))
    from ensue.stores.sql import schema
    from ensue.stores.sql.dialect import Dialect

    found: Dialect
    if dialect == "postgresql":
        from ensue.stores.postgres.dialect import PostgresDialect

        found, epoch = PostgresDialect(), "left(replace(gen_random_uuid()::text, '-', ''), 8)"
    elif dialect in ("mysql", "mariadb"):
        from ensue.stores.mariadb.dialect import MariaDbDialect

        found, epoch = MariaDbDialect(), "lower(hex(random_bytes(4)))"
    else:
        raise UsageError(f"Ensue has no tables for {dialect!r}: expected sqlite, postgresql, mysql or mariadb")
    return SqlTables(schema.statements(found), schema.first_rows(service, outbox, epoch))


def sql_tables_of(database_url: str, service: str) -> SqlTables | None:
    """As `sql_tables`, by a service's database URL; None: that database has no tables."""
    scheme = database_url.partition(":")[0].partition("+")[0]
    return sql_tables(scheme, service) if scheme in ("sqlite", "postgresql", "mysql", "mariadb") else None
