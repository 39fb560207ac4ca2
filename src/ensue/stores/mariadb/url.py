"""The database's URL: what asyncmy takes, and what is ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ensue.addresses import check_encoded
from ensue.errors import UsageError

POOL_SIZE, LOCK_TIMEOUT_S, CONNECT_S = 10, 30.0, 10
#: Options that asyncmy takes as they are.
_DRIVERS = ("unix_socket", "read_default_file", "read_default_group", "program_name")
_TLS = ("ssl", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_check_hostname", "ssl_verify_cert")
_OURS = ("pool_size", "lock_timeout_s", "binlog", "connect_timeout", "charset")
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MariaDbUrl:
    """arguments: for asyncmy, the password among them. place: host and database, safe to show.

    pool_size: steps at once in one process. lock_timeout_s: how long a step waits for another one's row lock, whole
    seconds. binlog: follow the server's binary log to be woken (needs REPLICATION SLAVE), instead of looking.
    """

    arguments: Mapping[str, Any]
    place: str
    pool_size: int = POOL_SIZE
    lock_timeout_s: int = int(LOCK_TIMEOUT_S)
    binlog: bool = False


def parse(url: str) -> MariaDbUrl:
    """Read a URL. Raises UsageError that names the option, never the URL, which may hold a password."""
    check_encoded("database URL", url)
    parts = urlsplit(url)
    if parts.scheme not in ("mariadb", "mysql"):
        raise UsageError(f"database URL with scheme {parts.scheme!r}: expected mariadb or mysql")
    database = unquote(parts.path.lstrip("/"))
    if not database:
        raise UsageError(f"database URL names no database: expected {parts.scheme}://user:password@host/database")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - {*_DRIVERS, *_TLS, *_OURS})
    if unknown:
        raise UsageError(
            f"database URL: unknown option {', '.join(unknown)}, expected {', '.join((*_OURS, *_TLS, *_DRIVERS))}"
        )
    host, port = parts.hostname or "localhost", parts.port or 3306
    arguments: dict[str, Any] = {
        "host": host,
        "port": port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": database,
        "charset": options.get("charset", "utf8mb4"),
        "connect_timeout": int(_number("connect_timeout", options.get("connect_timeout", str(CONNECT_S)), 1, 3600)),
        **{name: options[name] for name in _DRIVERS if name in options},
    }
    tls = _tls(options)
    if tls is not None:
        arguments["ssl"] = tls
    return MariaDbUrl(
        arguments=arguments,
        place=f"MariaDB {host}:{port}/{database}",
        pool_size=int(_number("pool_size", options.get("pool_size", str(POOL_SIZE)), 1, 1000)),
        lock_timeout_s=int(_number("lock_timeout_s", options.get("lock_timeout_s", str(LOCK_TIMEOUT_S)), 1, 86_400)),
        binlog=_flag("binlog", options.get("binlog", "0")),
    )


def _tls(options: Mapping[str, str]) -> dict[str, Any] | None:
    """What asyncmy makes a TLS context of; None: no TLS asked for."""
    named = {name.removeprefix("ssl_"): options[name] for name in _TLS[1:] if name in options}
    if not named and not _flag("ssl", options.get("ssl", "0")):
        return None
    found: dict[str, Any] = {
        name: value for name, value in named.items() if name not in ("check_hostname", "verify_cert")
    }
    if "check_hostname" in named:
        found["check_hostname"] = _flag("ssl_check_hostname", named["check_hostname"])
    if "verify_cert" in named:
        found["verify_mode"] = _flag("ssl_verify_cert", named["verify_cert"])
    return found


def _flag(name: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UsageError(f"database URL: {name}={text!r}, expected 1 or 0", found=text)
    return text.lower() in _TRUE


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"database URL: {name}={text!r}, expected a number", found=text) from None
    if not least <= value <= most:
        raise UsageError(f"database URL: {name}={text!r}, expected {least:g} to {most:g}", found=text)
    return value
