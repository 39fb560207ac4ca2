"""The database's URL: what is the driver's goes to the driver untouched (TLS among it), what is ours is read here."""

from __future__ import annotations

import dataclasses
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from ensue.addresses import check_encoded
from ensue.errors import UsageError

DRIVERS = ("asyncpg", "psycopg")
OUTBOXES = ("poll", "wal")
_OURS = ("outbox", "pgbouncer", "pool_size", "schema", "lock_timeout_s", "replication_host", "replication_port")
POOL_SIZE, POOL_SIZE_MIN, LOCK_TIMEOUT_S = 8, 5, 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PostgresUrl:
    """driver: asyncpg or psycopg. dsn: what the driver connects to. place: host and database, safe to show.

    outbox: how positions are found. pgbouncer: a pooler in transaction mode is in between: no prepared statements, no
    LISTEN, nothing that outlives a transaction. pool_size: connections of one process in all. schema: where Ensue's
    and the user's tables are; empty: the server's default. lock_timeout_s: how long a step waits for a row lock.
    replication_host, replication_port: the server itself for who reads its log, where a pooler stands at the dsn.
    """

    driver: str
    dsn: str
    place: str
    outbox: str = "poll"
    pgbouncer: bool = False
    pool_size: int = POOL_SIZE
    schema: str = ""
    lock_timeout_s: float = LOCK_TIMEOUT_S
    replication_host: str = ""
    replication_port: str = ""


def parse(url: str) -> PostgresUrl:
    """Read a URL. Raises UsageError that names the option, never the URL, which may hold a password."""
    check_encoded("database URL", url)
    parts = urlsplit(url)
    scheme, _, driver = parts.scheme.partition("+")
    driver = driver or DRIVERS[0]
    if scheme != "postgresql" or driver not in DRIVERS:
        raise UsageError(f"database URL with scheme {parts.scheme!r}: expected postgresql, with +asyncpg or +psycopg")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    ours = {name: options.pop(name) for name in _OURS if name in options}
    if ours.get("outbox") == "messages":
        raise UsageError(
            "database URL: there is no outbox='messages': events that are in the server's log alone are lost with its "
            "slot. Use outbox=wal, which reads the log too and keeps a table, or outbox=poll",
            found="messages",
            expected=" or ".join(OUTBOXES),
        )
    if ours.get("outbox", "poll") not in OUTBOXES:
        raise _wrong("outbox", ours["outbox"], " or ".join(OUTBOXES))
    try:
        host = f"{parts.hostname or options.get('host', 'localhost')}:{parts.port or options.get('port', 5432)}"
    except ValueError:  # several hosts, each with a port of its own: the driver's affair
        host = parts.netloc.rpartition("@")[2]
    theirs = urlencode(options, quote_via=quote)  # libpq takes a + for a plus, not for a space
    return PostgresUrl(
        driver=driver,
        dsn=urlunsplit(("postgresql", parts.netloc, parts.path, theirs, "")),
        place=f"PostgreSQL {host}/{parts.path.lstrip('/')}" + (f" schema {ours['schema']}" if "schema" in ours else ""),
        outbox=ours.get("outbox", "poll"),
        pgbouncer=_flag("pgbouncer", ours.get("pgbouncer", "0")),
        pool_size=int(_number("pool_size", ours.get("pool_size", str(POOL_SIZE)), POOL_SIZE_MIN, 1000)),
        schema=ours.get("schema", ""),
        lock_timeout_s=_number("lock_timeout_s", ours.get("lock_timeout_s", str(LOCK_TIMEOUT_S)), 0.01, 86_400),
        replication_host=ours.get("replication_host", ""),
        replication_port=ours.get("replication_port", ""),
    )


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise _wrong(name, text, "1 or 0")
    return text.lower() in ("1", "true", "yes")


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _wrong(name, text, "a number") from None
    if not least <= value <= most:
        raise _wrong(name, text, f"{least:g} to {most:g}")
    return value


def _wrong(name: str, found: str, expected: str) -> UsageError:
    return UsageError(f"database URL: {name}={found!r}, expected {expected}", found=found, expected=expected)
