"""How a tail reaches the server: past any pooler, with psycopg, whatever driver steps use."""

from __future__ import annotations

import dataclasses

import psycopg
from psycopg import conninfo, sql

from ensue.errors import UsageError
from ensue.stores.postgres.replication import CONNECT_TIMEOUT_S
from ensue.stores.postgres.url import PostgresUrl

Rows = psycopg.AsyncConnection[tuple[object, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """conninfo: of the server itself, not of a pooler. schema: Ensue's; empty, the server's default."""

    conninfo: str = dataclasses.field(repr=False)
    schema: str

    @property
    def publication(self) -> str:
        """Of what is inserted into the outbox; a schema that is not the default has one of its own."""
        return f"ensue_outbox_{self.schema}" if self.schema else "ensue_outbox"

    @property
    def path(self) -> sql.Composed | None:
        """The command that puts the schema on a connection's path; None: it is there."""
        return sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema)) if self.schema else None

    async def connect(self) -> Rows:
        """Return an autocommit connection for SQL. Raises psycopg's errors."""
        connection = await psycopg.AsyncConnection.connect(
            self.conninfo, autocommit=True, application_name="ensue tail", connect_timeout=CONNECT_TIMEOUT_S
        )
        if self.path is not None:
            try:
                await connection.execute(self.path)
            except BaseException:
                await connection.close()
                raise
        return connection


def make_access(url: PostgresUrl) -> Access:
    """Return the access by the store's URL. Raises UsageError for options that libpq does not know."""
    where = {name: value for name, value in (("host", url.replication_host), ("port", url.replication_port)) if value}
    try:
        return Access(conninfo.make_conninfo(url.dsn, **where), url.schema)
    except psycopg.ProgrammingError as error:
        raise UsageError(
            f"{url.place}: psycopg, which reads the log, does not understand the URL's options: {error}. Write them as "
            "libpq does (sslmode, sslrootcert, ...)"
        ) from error
