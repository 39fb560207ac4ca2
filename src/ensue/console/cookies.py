"""The console's cookies. A browser keeps them by the host alone, whatever the port, and sends those of a path to all
that is below it: so the name says of which console each is.

Source: RFC 6265, 8.5 (cookies know no port), and its successor's prefix `__Host-`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

_PORT: Final = re.compile(r":([0-9]{1,5})$")


def cookie_name(what: str, connection: HTTPConnection) -> str:
    """The name of a cookie of the console that the connection asks: with the port by which the browser asks for it, and
    its mount. Over https with `__Host-`, by which a browser takes it from this host alone, and over https.

    >>> of = {"type": "http", "path": "/", "headers": [(b"host", b"127.0.0.1:8040")]}
    >>> [cookie_name("ensue-form", HTTPConnection({**of, "scheme": each})) for each in ("http", "https")]
    ['ensue-form-8040', '__Host-ensue-form-8040']
    """
    port = _PORT.search(connection.headers.get("host", ""))
    mount = _mount_of(connection)
    parts = [what, *([port[1]] if port else []), *([_digest(mount)] if mount else [])]
    return f"{'__Host-' if is_https(connection) else ''}{'-'.join(parts)}"


def found_cookie(what: str, connection: HTTPConnection) -> str:
    """Its value; empty: there is none."""
    return connection.cookies.get(cookie_name(what, connection), "")


def keep_cookie(answer: Response, connection: HTTPConnection, what: str, value: str) -> None:
    """Have the browser keep it until it ends: for no script, and for no page of another site."""
    https = is_https(connection)
    # `__Host-` wants the path /: the mount is in the name.
    path = "/" if https else _mount_of(connection) or "/"
    answer.set_cookie(cookie_name(what, connection), value, path=path, httponly=True, samesite="strict", secure=https)


def is_https(connection: HTTPConnection) -> bool:
    return connection.scope.get("scheme") == "https"


def _mount_of(connection: HTTPConnection) -> str:
    return str(connection.scope.get("root_path", "")).rstrip("/")


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode("utf-8", "replace"), digest_size=4).hexdigest()
