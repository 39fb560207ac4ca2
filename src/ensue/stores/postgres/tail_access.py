"""How a tail reaches the server: past any pooler, with psycopg, whatever driver steps use."""

from __future__ import annotations

import psycopg
from psycopg import conninfo, sql

from ensue.errors import UsageError
from ensue.stores.postgres.replication import CONNECT_TIMEOUT_S
from ensue.stores.postgres.tail_loop import Access
from ensue.stores.postgres.tail_slot import Rows
from ensue.stores.postgres.url import PostgresUrl


def make_access(url: PostgresUrl, service: str) -> Access:
    """Return the access by the store's URL. Raises UsageError for options that libpq does not know."""
    where = {name: value for name, value in (("host", url.replication_host), ("port", url.replication_port)) if value}
    try:
        direct = conninfo.make_conninfo(url.dsn, **where)
    except psycopg.ProgrammingError as error:
        raise UsageError(
            f"{url.place}: psycopg, which reads the log, does not understand the URL's options: {error}. Write them as "
            "libpq does (sslmode, sslrootcert, ...)"
        ) from error

    async def connect() -> Rows:
        connection = await psycopg.AsyncConnection.connect(
            direct, autocommit=True, application_name="ensue tail", connect_timeout=CONNECT_TIMEOUT_S
        )
        if url.schema:
            try:
                await connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(url.schema)))
            except BaseException:
                await connection.close()
                raise
        return connection

    return Access(replication=direct, connect=connect, schema=url.schema, prefix=f"ensue:{service}:{url.schema}")
