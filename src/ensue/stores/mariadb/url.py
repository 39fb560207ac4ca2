"""The database's URL: what asyncmy takes, and what is ours."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from ensue.addresses import Options, check_encoded, check_one_host
from ensue.errors import UsageError
from ensue.tls import demanded

POOL_SIZE, POOL_SIZE_MIN, LOCK_TIMEOUT_S, CONNECT_S = 8, 5, 30, 10
#: Options that asyncmy takes as they are.
_DRIVERS = ("unix_socket", "read_default_file", "read_default_group", "program_name")
_TLS_FILES = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MariaDbUrl:
    """arguments: for asyncmy, the password among them; `ssl` is a context, and is there if TLS is asked for.

    place: host and database, safe to show. connect_args: what asyncmy is given besides.
    pool_size: connections of one process in all. lock_timeout_s: how long a step waits for another one's row lock,
    whole seconds.
    """

    arguments: Mapping[str, Any] = dataclasses.field(repr=False)
    place: str
    connect_args: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    pool_size: int = POOL_SIZE
    lock_timeout_s: int = LOCK_TIMEOUT_S


def parse(url: str, connect_args: Mapping[str, Any] | None = None) -> MariaDbUrl:
    """Read a URL. Raises UsageError that names the option, never the URL, which may hold a password."""
    check_encoded("database URL", url)
    check_one_host("database URL", url)
    parts = urlsplit(url)
    if parts.scheme not in ("mariadb", "mysql"):
        raise UsageError(f"database URL with scheme {parts.scheme!r}: expected mariadb or mysql")
    database = unquote(parts.path.lstrip("/"))
    if not database:
        raise UsageError(f"database URL names no database: expected {parts.scheme}://user:password@host/database")
    options = Options("database URL", parts.query)
    options.text("charset", "utf8mb4", "utf8mb4", "utf8mb4: others lose characters, or let a value end its literal")
    host, port = parts.hostname or "localhost", parts.port or 3306
    arguments: dict[str, Any] = {
        "host": host,
        "port": port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": database,
        "charset": "utf8mb4",
        "connect_timeout": options.whole("connect_timeout", CONNECT_S, 1, 3600),
        **_given(options, _DRIVERS),
    }
    tls = _tls(parts.scheme, options)
    if tls is not None and "ssl" in (connect_args or {}):
        raise UsageError(
            "database URL: it has options of TLS, and connect_args has ssl: say all of it in one of the two"
        )
    if tls is not None:
        arguments["ssl"] = tls
    found = MariaDbUrl(
        arguments=arguments,
        place=f"MariaDB {host}:{port}/{database}",
        connect_args=connect_args or {},
        pool_size=options.whole("pool_size", POOL_SIZE, POOL_SIZE_MIN, 1000),
        lock_timeout_s=options.whole("lock_timeout_s", LOCK_TIMEOUT_S, 1, 86_400),
    )
    options.check_none_left()
    return found


def _given(options: Options, names: Iterable[str]) -> dict[str, str]:
    return {name: text for name in names if (text := options.given(name)) is not None}


def _tls(scheme: str, options: Options) -> ssl.SSLContext | None:
    """What the connections speak TLS with; None: no TLS asked for. Its files are read now, for as long as we run.

    A context and not asyncmy's dict: with an empty one, as of `ssl=1`, asyncmy speaks no TLS and does not tell; without
    an authority in it, it leaves out what proves who the server is. Without `ssl_ca` we take the system's authorities.
    """
    asked = demanded("database URL", scheme, options.left)
    named = _given(options, _TLS_FILES)
    trusted = options.flag("ssl_verify_cert", True)
    by_name = options.flag("ssl_check_hostname", trusted)
    if not (options.flag("ssl") or asked):
        return None
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
        which = ", ".join(f"{name}={value}" for name, value in named.items())
        raise UsageError(f"database URL: TLS cannot be set up with {which}: {error.strerror or error}") from error
    return context
