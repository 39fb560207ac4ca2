"""The database's URL: what asyncmy takes, and what is ours."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ensue.addresses import check_encoded
from ensue.errors import UsageError

POOL_SIZE, LOCK_TIMEOUT_S, CONNECT_S = 10, 30.0, 10
#: Options that asyncmy takes as they are.
_DRIVERS = ("unix_socket", "read_default_file", "read_default_group", "program_name")
_TLS = ("ssl", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_check_hostname", "ssl_verify_cert")
_FLAGS = ("ssl_check_hostname", "ssl_verify_cert")
_OURS = ("pool_size", "lock_timeout_s", "connect_timeout", "charset")
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MariaDbUrl:
    """arguments: for asyncmy, the password among them; `ssl` is a context, and is there if TLS is asked for.

    place: host and database, safe to show.
    pool_size: steps at once in one process. lock_timeout_s: how long a step waits for another one's row lock, whole
    seconds.
    """

    arguments: Mapping[str, Any]
    place: str
    pool_size: int = POOL_SIZE
    lock_timeout_s: int = int(LOCK_TIMEOUT_S)


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
    if options.get("charset", "utf8mb4") != "utf8mb4":
        # Others lose characters, and in some of them a byte of a value may end its literal.
        raise UsageError(f"database URL: charset={options['charset']!r}, expected utf8mb4", found=options["charset"])
    host, port = parts.hostname or "localhost", parts.port or 3306
    arguments: dict[str, Any] = {
        "host": host,
        "port": port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": database,
        "charset": "utf8mb4",
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
    )


def _tls(options: Mapping[str, str]) -> ssl.SSLContext | None:
    """What the connections speak TLS with; None: no TLS asked for. Its files are read now, for as long as we run.

    A context and not asyncmy's dict: with an empty one, as of `ssl=1`, asyncmy speaks no TLS and does not tell; without
    an authority in it, it leaves out what proves who the server is. Without `ssl_ca` we take the system's authorities.
    """
    named = {name: options[name] for name in _TLS[1:] if name in options}
    if not named and not _flag("ssl", options.get("ssl", "0")):
        return None
    trusted = _flag("ssl_verify_cert", named.get("ssl_verify_cert", "1"))
    by_name = _flag("ssl_check_hostname", named.get("ssl_check_hostname", "1" if trusted else "0"))
    if by_name and not trusted:
        raise UsageError("database URL: ssl_check_hostname=1 needs the certificate: leave out ssl_verify_cert=0")
    try:
        context = ssl.create_default_context(cafile=named.get("ssl_ca"), capath=named.get("ssl_capath"))
        # Strict, as Python 3.13 is by itself, refuses authorities that are made as MariaDB's own pages say.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = by_name
        context.verify_mode = ssl.CERT_REQUIRED if trusted else ssl.CERT_NONE
        if "ssl_cert" in named:
            context.load_cert_chain(named["ssl_cert"], named.get("ssl_key"))
        if "ssl_cipher" in named:
            context.set_ciphers(named["ssl_cipher"])
    except OSError as error:  # an SSLError is one
        which = ", ".join(f"{name}={value}" for name, value in named.items() if name not in _FLAGS)
        raise UsageError(f"database URL: TLS cannot be set up with {which}: {error.strerror or error}") from error
    return context


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
