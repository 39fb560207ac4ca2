"""The URL of a log in PostgreSQL: our own options taken out, the rest left to the driver."""

from __future__ import annotations

import dataclasses
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ensue.addresses import check_encoded
from ensue.errors import UsageError

#: PostgreSQL cuts longer names off without a word.
_NAME_BYTES_MAX = 63
_OURS = frozenset({"schema", "prefix", "pgbouncer", "pool_size", "timeout_s"})
_ON = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What `postgresql://user:password@host:port/database?schema=ensue_log` says.

    dsn: for the driver; it may hold a password and is never shown. place: for people: host, port, database, schema.
    pgbouncer: between us and the server stands a pooler in transaction mode, so nothing may rely on a session.
    prefix: before the name of each topic, so that two systems can share a schema. pool_size: connections at most.
    timeout_s: how long a connect or a statement may take, in seconds.
    """

    dsn: str
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
    ours: dict[str, str] = {}
    theirs: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _OURS:
            ours[name] = value
        else:
            theirs.append((name, value))
    schema = ours.get("schema", "ensue_log")
    if not schema or "\0" in schema or len(schema.encode()) > _NAME_BYTES_MAX:
        raise UsageError(f"broker URL: schema={schema!r}, expected a name of 1 to {_NAME_BYTES_MAX} bytes")
    pooled = _ON.get(ours.get("pgbouncer", "0").lower())
    if pooled is None:
        raise UsageError(f"broker URL: pgbouncer={ours['pgbouncer']!r}, expected 1 or 0")
    return Address(
        dsn=urlunsplit(parts._replace(query=urlencode(theirs))),
        place=f"{parts.netloc.rpartition('@')[2]}{parts.path} (schema {schema})",
        schema=schema,
        pgbouncer=pooled,
        prefix=ours.get("prefix", ""),
        pool_size=int(_number(ours, "pool_size", "10", 1, 1000)),
        timeout_s=_number(ours, "timeout_s", "10", 0.1, 3600),
    )


def _number(options: dict[str, str], name: str, default: str, least: float, most: float) -> float:
    text = options.get(name, default)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise UsageError(f"broker URL: {name}={text!r}, expected a number from {least:g} to {most:g}")
    return number
