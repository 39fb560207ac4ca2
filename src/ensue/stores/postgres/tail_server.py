"""What a server must have for a tail: a log that can be decoded, and a publication of what goes into the outbox."""

from __future__ import annotations

import psycopg

from ensue.errors import UsageError
from ensue.stores.postgres.tail_access import Rows


async def check_server(connection: Rows) -> None:
    """Raise UsageError when the server does not write what a tail needs."""
    cursor = await connection.execute(
        "SELECT current_setting('wal_level'), current_setting('max_replication_slots'), "
        "current_setting('server_version_num')::int"
    )
    row = await cursor.fetchone()
    assert row is not None
    if isinstance(row[2], int) and row[2] < 140000:
        raise UsageError(
            f"the server is PostgreSQL {row[2] // 10000}; tailing its log needs 14 or later. Use ?outbox=poll",
            found=row[2],
            expected=140000,
        )
    if row[0] != "logical":
        raise UsageError(
            f"the server has wal_level = {row[0]}, tailing its log needs logical: set wal_level = logical in "
            "postgresql.conf and restart the server, or use ?outbox=poll",
            found=row[0],
            expected="logical",
        )
    if row[1] == "0":
        raise UsageError("the server has max_replication_slots = 0, tailing its log needs one: set it and restart")


async def ensure_publication(connection: Rows, publication: str, schema: str, table: str) -> None:
    """Make the publication of what is inserted into the outbox. Safe to repeat and to race."""
    found = await connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (publication,))
    if await found.fetchone():
        return
    try:
        await connection.execute(
            f'CREATE PUBLICATION "{publication}" FOR TABLE "{schema}"."{table}" WITH (publish = \'insert\')'
        )
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return  # another process was quicker
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"no publication: {str(error).strip()}. The user needs CREATE on the database and must own {table}; or "
            f'let a superuser run: CREATE PUBLICATION "{publication}" FOR TABLE "{schema}"."{table}" '
            "WITH (publish = 'insert')"
        ) from error
