"""Whether a request that changes something was begun by another site, in the browser of somebody who is let in here.

A rule over headers. Source: Filippo Valsorda's study of cross-site request forgery, and `http.CrossOriginProtection` of
Go's standard library, which came of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from ensue.console.access import NotAllowed
from ensue.errors import UsageError

#: What changes nothing, as RFC 9110 has it.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_same_origin(method: str, headers: Headers, trusted: Collection[str] = ()) -> None:
    """Raise NotAllowed when a browser says that the request comes from elsewhere.

    headers: of the request. trusted: further origins, as `https://desk.example`, from which it may come; see
    `checked_origins`. A request in which no browser has left a trace (neither Sec-Fetch-Site nor Origin) is a
    program's, and passes: what protects from those is who it says to be.
    """
    if method.upper() in SAFE_METHODS:
        return
    site, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    if len(site) > 1 or len(origins) > 1:
        raise _refused("it names its origin twice")
    origin = origins[0].lower() if origins else ""
    if origin and origin in trusted:
        return
    if site:
        if site[0] not in ("same-origin", "none"):  # none: typed, or from a bookmark
            raise _refused(f"its browser says that it comes from a {site[0][:20]} page")
        return
    if origin and _host_of(origin) != headers.get("host", "").lower():
        raise _refused("its Origin is not the Host that it asks")


def checked_origins(origins: Iterable[str]) -> frozenset[str]:
    """Raise UsageError for what is no origin: scheme and host, a port where it is not the usual one, and no path.

    >>> sorted(checked_origins(["https://Desk.example"]))
    ['https://desk.example']
    """
    found = frozenset(each.lower() for each in origins)
    for each in found:
        parts = urlsplit(each)
        if parts.scheme not in ("http", "https") or not parts.netloc or each != f"{parts.scheme}://{parts.netloc}":
            raise UsageError(f"origin {each!r:.80}, expected scheme and host alone, such as https://desk.example")
    return found


def _host_of(origin: str) -> str | None:
    """Host and port, as a Host header has them; None: it has none, as `null`, the origin of a sandboxed page."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _refused(why: str) -> NotAllowed:
    return NotAllowed(f"this request would change something, and {why}: refused")
