"""The URL of a log in PostgreSQL: our own options taken out, the rest left to the driver."""

from __future__ import annotations

import dataclasses
from urllib.parse import urlsplit, urlunsplit

from ensue.addresses import Options, check_encoded
from ensue.tls import say_for_postgresql

#: PostgreSQL cuts longer names off without a word.
_NAME_BYTES_MAX = 63


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What `postgresql://user:password@host:port/database?schema=ensue_log` says.

    dsn: for the driver; it may hold a password and is never shown. place: for people: host, port, database, schema.
    pgbouncer: between us and the server stands a pooler in transaction mode, so nothing may rely on a session.
    prefix: before the name of each topic, so that two systems can share a schema. pool_size: connections at most.
    timeout_s: how long a connect or a statement may take, in seconds.
    """

    dsn: str = dataclasses.field(repr=False)
    place: str
    schema: str = "ensue_log"
    pgbouncer: bool = False
    prefix: str = ""
    pool_size: int = 10
    timeout_s: float = 10.0


def parse_address(url: str) -> Address:
    """Read the URL. Raises UsageError that names the option, its value and what is expected; never the URL itself."""
    check_encoded("broker URL", url, host_needed=True)
    parts = urlsplit(url)
    options = Options("broker URL", parts.query)
    schema = options.text("schema", "ensue_log")
    if not schema or "\0" in schema or len(schema.encode()) > _NAME_BYTES_MAX:
        raise options.wrong("schema", schema, f"a name of 1 to {_NAME_BYTES_MAX} bytes")
    say_for_postgresql("broker URL", options.left)
    return Address(
        place=f"{parts.netloc.rpartition('@')[2]}{parts.path} (schema {schema})",
        schema=schema,
        pgbouncer=options.flag("pgbouncer"),
        prefix=options.text("prefix"),
        pool_size=options.whole("pool_size", 10, 1, 1000),
        timeout_s=options.number("timeout_s", 10, 0.1, 3600),
        # Last: what is left is the driver's.
        dsn=urlunsplit(parts._replace(query=options.left_query)),
    )
