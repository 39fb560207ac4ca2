"""What every URL of a server has to keep to before any part of it is used, or shown in an error."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from ensue.errors import UsageError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")


def scheme_of(url: str) -> str:
    """Return the scheme in small letters; empty without one. What `urlsplit` raises may show the password.

    >>> scheme_of("PostgreSQL+psycopg://u:p@[x/y"), scheme_of("orders.db")
    ('postgresql+psycopg', '')
    """
    found = _SCHEME.match(url)
    return found[0].lower() if found else ""


#: Other names of schemes that certainly mean the same.
_SAME = {"postgres": "postgresql"}


def usual(url: str) -> str:
    """Return the URL with the usual name of its scheme.

    >>> usual("postgres://orders@db/orders"), usual("kafka://log:9092")
    ('postgresql://orders@db/orders', 'kafka://log:9092')
    """
    scheme = scheme_of(url).partition("+")[0]
    return _SAME.get(scheme, scheme) + url[len(scheme) :]


def check_encoded(what: str, url: str, *, host_needed: bool = False) -> None:
    """Raise UsageError, which shows nothing of the URL, when user or password hold what has to be percent-encoded.

    A password with a raw `/`, `?` or `#` ends the part of the URL in which it is looked for, so its pieces would be
    taken for a port, a path or an option, and those are shown. One with a raw `@` ends there for some drivers.
    what: which URL, e.g. "broker URL". Several hosts may be named, with commas between them.
    """
    if _is_readable(url, host_needed):
        return
    raise UsageError(
        f"the {what} cannot be read: expected {scheme_of(url) or 'scheme'}://user:password@host:port/..., with special "
        "characters of user, password and values of options percent-encoded "
        "(/ as %2F, @ as %40, # as %23, ? as %3F, : as %3A, [ as %5B, ] as %5D), and ports from 1 to 65535"
    )


def _is_readable(url: str, host_needed: bool) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # a raw [ or ], or a letter that stands for one of / ? # @ :
        return False
    user, _, hosts = parts.netloc.rpartition("@")
    if "@" in f"{user}{parts.path}{parts.query}{parts.fragment}":
        return False
    if host_needed and (not hosts or hosts.startswith(":")):
        return False
    return all(_is_port(each) for each in hosts.split(","))


def _is_port(host: str) -> bool:
    """Of `host`, `host:port`, `[address]`, `[address]:port`: whether the port is one, or is not there."""
    port = host.rpartition("]")[2].partition(":")[2]
    return not port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
