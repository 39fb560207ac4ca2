"""What a request of Django's says of who asks for what: see `ensue.integrations.request_identity`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest, UnreadablePostError

from ensue.integrations.request_identity import body_parts, credentials_of, fingerprint_of

#: Where servers say whose certificate, or whom, they have let in.
_OF_SERVER = ("REMOTE_USER", "SSL_CLIENT_S_DN", "SSL_CLIENT_CERT")


def inner_request(request: Any) -> Any:
    """Django's own, where Django REST framework has put one of its own around it."""
    return getattr(request, "_request", request)


def credentials(request: Any) -> str:
    """Who asks, unless `idempotent(principal=...)` says better.

    The headers by which clients or proxies usually say it (Authorization, Cookie, X-API-Key, X-Forwarded-User and
    whatever else is named like that), a client's certificate or user that the server has let in, and `request.user`. A
    client that renews its token, or whose cookies change, between two tries is another principal to it, so that its
    request takes effect twice.
    """
    plain = inner_request(request)
    headers = ((name.lower(), value) for name, value in plain.headers.items())
    tls = (getattr(plain, "scope", {}).get("extensions") or {}).get("tls") or {}
    certificate = [tls.get(name) for name in ("client_cert_name", "client_cert_chain")]
    certificate += [plain.META.get(name) for name in _OF_SERVER]
    user = getattr(request, "user", None)
    known = getattr(user, "is_authenticated", False)
    return credentials_of(headers, certificate, str(getattr(user, "pk", user)) if known else "")


def fingerprint(request: HttpRequest, own_key: str) -> str:
    """Raises what reading the body does; UnreadablePostError also where it ends too early."""
    return fingerprint_of(
        own_key, request.META.get("QUERY_STRING", "").encode("utf-8", "surrogatepass"), _parts(request)
    )


def _parts(request: HttpRequest) -> Iterator[bytes]:
    if request.method == "POST" and request.content_type == "multipart/form-data":
        # Read by Django's parser, as the check of CSRF tokens may have done already; files may be larger than memory.
        yield request.content_type.encode()
        for name, values in request.POST.lists():
            for value in values:
                yield from _encoded("field", name, value)
        for name, files in request.FILES.lists():
            for each in files:
                yield from _encoded("file", name, each.name, each.content_type or "")
                digest = hashlib.sha256()
                for chunk in each.chunks():
                    digest.update(chunk)
                each.seek(0)
                yield digest.digest()
        return
    body = request.body
    told = request.META.get("CONTENT_LENGTH") or ""
    if told.isdecimal() and len(body) < int(told):  # so a server says that the client has gone
        raise UnreadablePostError(f"{len(body)} of {told} bytes")
    yield from body_parts(request.META.get("CONTENT_TYPE", ""), body)


def _encoded(*texts: str) -> Iterator[bytes]:
    for each in texts:
        yield each.encode("utf-8", "surrogatepass")
