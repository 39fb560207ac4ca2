"""The database's URL: what is the driver's goes to the driver untouched (TLS among it), what is ours is read here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ensue.addresses import Options, check_encoded
from ensue.errors import UsageError
from ensue.tls import say_for_postgresql

DRIVERS = ("asyncpg", "psycopg")
OUTBOXES = ("poll", "wal")
POOL_SIZE, POOL_SIZE_MIN, LOCK_TIMEOUT_S = 8, 5, 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PostgresUrl:
    """driver: asyncpg or psycopg. dsn: what the driver connects to. place: host and database, safe to show.

    outbox: how positions are found. pgbouncer: a pooler in transaction mode is in between: no prepared statements, no
    LISTEN, nothing that outlives a transaction. pool_size: connections of one process in all. schema: where Ensue's
    and the user's tables are; empty: the server's default. lock_timeout_s: how long a step waits for a row lock.
    replication_host, replication_port: the server itself for who reads its log, where a pooler stands at the dsn.
    application: how the server calls its connections. connect_args: what the driver is given besides the dsn.
    """

    driver: str
    dsn: str = dataclasses.field(repr=False)
    place: str
    outbox: str = "poll"
    pgbouncer: bool = False
    pool_size: int = POOL_SIZE
    schema: str = ""
    lock_timeout_s: float = LOCK_TIMEOUT_S
    replication_host: str = ""
    replication_port: str = ""
    application: str = "ensue"
    connect_args: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)


def parse(url: str, connect_args: Mapping[str, Any] | None = None) -> PostgresUrl:
    """Read a URL. Raises UsageError that names the option, never the URL, which may hold a password."""
    check_encoded("database URL", url)
    parts = urlsplit(url)
    scheme, _, driver = parts.scheme.partition("+")
    driver = driver or DRIVERS[0]
    if scheme != "postgresql" or driver not in DRIVERS:
        raise UsageError(f"database URL with scheme {parts.scheme!r}: expected postgresql, with +asyncpg or +psycopg")
    options = Options("database URL", parts.query)
    if options.left.get("outbox") == "messages":
        raise UsageError(
            "database URL: there is no outbox='messages': events that are in the server's log alone are lost with its "
            "slot. Use outbox=wal, which reads the log too and keeps a table, or outbox=poll",
            found="messages",
            expected=" or ".join(OUTBOXES),
        )
    try:
        named = options.left
        host = f"{parts.hostname or named.get('host', 'localhost')}:{parts.port or named.get('port', 5432)}"
    except ValueError:  # several hosts, each with a port of its own: the driver's affair
        host = parts.netloc.rpartition("@")[2]
    schema = options.text("schema")
    outbox = options.one_of("outbox", *OUTBOXES)
    if connect_args and outbox == "wal":
        raise UsageError(
            f"connect_args={sorted(connect_args)} with outbox=wal: who reads the server's log connects without the "
            "driver. Say it in the URL (sslmode, sslrootcert, ...), or use outbox=poll"
        )
    say_for_postgresql("database URL", options.left, connect_args)
    return PostgresUrl(
        driver=driver,
        place=f"PostgreSQL {host}/{parts.path.lstrip('/')}" + (f" schema {schema}" if schema else ""),
        outbox=outbox,
        pgbouncer=options.flag("pgbouncer"),
        pool_size=options.whole("pool_size", POOL_SIZE, POOL_SIZE_MIN, 1000),
        schema=schema,
        lock_timeout_s=options.number("lock_timeout_s", LOCK_TIMEOUT_S, 0.01, 86_400),
        replication_host=options.text("replication_host"),
        replication_port=options.text("replication_port"),
        application=named.get("application_name", "ensue"),
        connect_args=connect_args or {},
        # Last: what is left is the driver's.
        dsn=urlunsplit(("postgresql", parts.netloc, parts.path, options.left_query, "")),
    )
